"""Live progress of a search: a display that redraws itself on a terminal, one-line records anywhere else.

* `step` only stores three numbers: drawing is done by a thread of its own, once a second, because training must not
  wait for the display.
* The drawing thread reads fields that are replaced whole and never changed in place.
* A record that is not for a terminal is complete in one line, so that `grep` and `tail -f` work on it.
"""

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.architecture import Architecture, diagram
from nas.objectives import Objective
from nas.report.numbers import heading, in_full, scales, with_spread
from nas.report.strips import strip_text
from nas.study.rows import Row

REDRAWS_PER_SECOND = 1  # a drawing takes 10 ms of a CPU core
RECENT_ROWS = 5
WIDTH_OF_A_FILE = 160  # columns of the tables where no terminal sets them
STATE_STYLES = {"complete": "green", "rejected": "yellow", "duplicate": "dim", "failed": "red", "stopped": "dim"}


class Progress:
    """Watches a study (`nas.study.events.Observer`). A context manager; leaving it restores the terminal.

    `rows` and `front` are those of earlier runs of the same study, so that a resumed run shows them at once.
    `quantities` are the numbers to show, usually the objectives and what is required.
    """

    def __init__(
        self,
        quantities: Sequence[Objective],
        *,
        rows: Sequence[Row] = (),
        front: Sequence[int] = (),
        console: Console | None = None,
    ) -> None:
        self.quantities = tuple(quantities)
        self.console = console or Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
        self.rows = {row.number: row for row in rows}
        self.recent: tuple[Row, ...] = ()
        self.front = tuple(front)
        self.done = sum(row.state == "complete" for row in rows)
        self.done_before = self.done
        self.total = 0
        self.began = time.monotonic()
        self.trial: tuple[int, Architecture, str] | None = None
        self.work_began = self.began
        self.between = ""  # what is done outside of trials, such as the noise floor
        self.stage = ""
        self.last_step: tuple[str, int, int, float] | None = None
        self.live: Live | None = None

    def __enter__(self) -> "Progress":
        self.began = time.monotonic()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=REDRAWS_PER_SECOND)
            self.live.start()
        elif self.front:
            self.record(f"front of earlier runs, {len(self.front)} of {self.done} trained: {self.members()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def trial_started(self, number: int, architecture: Architecture, origin: str, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.begin("")
        self.trial = (number, architecture, origin)
        if self.live is None:
            self.record(f"trial {number} started: {diagram(architecture)} ({origin}), {done} of {total} trained")

    def stage_started(self, stage: str) -> None:
        self.stage, self.last_step = stage, None

    def step(self, task: str, step: int, steps: int, loss: float) -> None:
        self.last_step = (task, step, steps, loss)

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        changed = front != self.front
        self.rows = {**self.rows, row.number: row}
        self.recent = (*self.recent, row)[-RECENT_ROWS:]
        self.front, self.done, self.total, self.trial = front, done, total, None
        self.begin("")
        if self.live is not None:
            return
        self.record(self.finished_line(row))
        if changed:
            self.record(f"front now {len(front)} of {done} trained: {self.members()}")

    def message(self, text: str) -> None:
        if self.trial is None:
            self.begin(text)
        if self.live is None:
            self.record(text)
        else:
            self.live.console.print(text, markup=False, highlight=False)

    def begin(self, between: str) -> None:
        """Other work begins: a trial, or what a message says outside of trials."""
        self.work_began, self.between = time.monotonic(), " ".join(between.split())
        self.stage, self.last_step = "", None

    def record(self, text: str) -> None:
        """One line with the time since the start, at once."""
        print(f"[{clock(time.monotonic() - self.began)}] {' '.join(text.split())}", file=self.console.file, flush=True)

    def finished_line(self, row: Row) -> str:
        numbers = "; ".join(in_full(name, m) for name, m in row.values.items())
        reason = f": {row.reason.removesuffix('.')}" if row.reason else ""
        place = ", on the front" if row.number in self.front else ""
        left = self.seconds_left()
        ahead = f"; {self.done} of {self.total} trained" + (f", about {clock(left)} left" if left else "")
        return (
            f"trial {row.number} {row.state}{place}{reason}: {diagram(row.architecture)}"
            f"{'; ' if numbers else ''}{numbers}; {sum(row.seconds.values()):.1f} s{ahead}"
        )

    def members(self) -> str:
        """The front in a line."""
        return ", ".join(map(self.member, self.front))

    def member(self, number: int) -> str:
        row = self.rows.get(number)
        return f"#{number}" if row is None else f"#{number} {diagram(row.architecture)}"

    def seconds_left(self) -> float | None:
        """What the trials still to be trained will take at the pace of those trained so far; None before the first."""
        trained = self.done - self.done_before
        if trained < 1:
            return None
        return max(0.0, (time.monotonic() - self.began) / trained * (self.total - self.done))

    def draw(self) -> RenderableType:
        """The whole display, for the console's height."""
        front = tuple(self.rows[n] for n in self.front if n in self.rows)
        recent = self.recent
        while len(recent) > 1 and self.room(recent, front) < 2:
            recent = recent[1:]
        room = max(2, self.room(recent, front))
        reasons = [Text(f"trial {r.number}: {r.reason}", style="dim", no_wrap=True) for r in recent if r.reason]
        parts: list[RenderableType] = [self.draw_overview(), self.draw_trial()]
        if recent:
            parts += [Text("last trials", style="bold"), self.draw_rows(recent, with_state=True), *reasons]
        if front:
            hidden = len(front) - room
            note = f", newest {room}" if hidden > 0 else ""
            parts += [Text(f"provisional front ({len(front)}{note})", style="bold"), self.draw_rows(front[-room:])]
        return Group(*parts)

    def heads(self, rows: Sequence[Row]) -> list[str]:
        """The heads of the columns of numbers, in lines."""
        scale = scales(rows, [q.name for q in self.quantities], self.quantities)
        return [heading(quantity, scale[quantity.name]) for quantity in self.quantities]

    def room(self, recent: Sequence[Row], front: Sequence[Row]) -> int:
        """Lines left for members of the front beside titles, heads, the last trials and their reasons."""
        heads = sum(max((head.count("\n") + 1 for head in self.heads(rows)), default=1) for rows in (recent, front))
        return self.console.height - 5 - heads - len(recent) - sum(row.reason is not None for row in recent)

    def draw_overview(self) -> RenderableType:
        left = self.seconds_left()
        table = Table.grid(padding=(0, 2))
        table.add_row(
            Text(f"{self.done} of {self.total} trained" if self.total else f"{self.done} trained", style="bold"),
            ProgressBar(total=max(self.total, 1), completed=self.done, width=24),
            f"{clock(time.monotonic() - self.began)} elapsed",
            "time left unknown before the first trial ends" if left is None else f"about {clock(left)} left",
            f"front {len(self.front)}",
        )
        return table

    def draw_trial(self) -> RenderableType:
        trial, last = self.trial, self.last_step
        if trial is not None:
            number, architecture, origin = trial
            text = Text(f"trial {number} ({origin})  ").append_text(strip_text(architecture))
        elif self.between:
            text = Text(self.between, no_wrap=True, overflow="ellipsis")
        else:
            return Text("between trials", style="dim")
        text.append(f"  {clock(time.monotonic() - self.work_began)}  {self.stage}")
        if last is not None:
            task, step, steps, loss = last
            text.append(f"  {task} {step}/{steps}  loss {loss:.4f}", style="cyan")
        return text

    def draw_rows(self, rows: Sequence[Row], *, with_state: bool = False) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("trial", justify="right", no_wrap=True)
        if with_state:
            table.add_column("state", no_wrap=True)
        table.add_column("layers", overflow="ellipsis", no_wrap=True)
        names = [q.name for q in self.quantities]
        scale = scales(rows, names, self.quantities)
        for head in self.heads(rows):
            table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
        for row in rows:
            cells: list[RenderableType] = [str(row.number)]
            if with_state:
                cells.append(Text(row.state, style=STATE_STYLES[row.state]))
            cells.append(strip_text(row.architecture))
            cells += [with_spread(row.values[n], scale[n]) if n in row.values else "" for n in names]
            table.add_row(*cells)
        return table


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
