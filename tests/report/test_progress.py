import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from nas.measurement import Source
from nas.report import progress as progress_module
from nas.report.numbers import shown_objectives
from nas.report.progress import Progress, clock
from tests.counted_calls import calls_of
from tests.report.examples import OBJECTIVES, REQUIREMENTS, from_source, rows

SHOWN = shown_objectives(OBJECTIVES, REQUIREMENTS)


def console(*, terminal: bool, height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, height=height, _environ={"TERM": "xterm"})


def watch(progress: Progress, count: int, source: Source = "measured") -> None:
    """Walk the first rows of the example, with times from `source`, through the observer's methods."""
    done, front = 0, ()
    for given in rows()[:count]:
        row = given if source == "measured" else from_source(given, source)
        progress.trial_started(row.number, row.architecture, row.origin, done, 12)
        progress.stage_started("count")
        if row.state == "complete":
            progress.stage_started("train text")
            progress.step("text", 1, 2, 3.5)
            progress.step("text", 2, 2, 2.5)
            done, front = done + 1, (*front, row.number)
        progress.row_finished(row, front, done, 12)


def test_away_from_a_terminal_each_trial_has_a_line_at_its_start_and_one_at_its_end():
    out = console(terminal=False)
    with Progress(SHOWN, console=out) as progress:
        watch(progress, 6)
        progress.message("a line\nfor the [bold]user[/]")
    lines = out.file.getvalue().splitlines()
    assert sum(" started: " in line for line in lines) == 6
    assert sum(" complete, on the front: " in line for line in lines) == 5
    (rejected,) = [line for line in lines if " rejected: " in line]
    assert "over the limit of 134,217,728 bytes: " in rejected
    assert "\x1b" not in out.file.getvalue()
    assert lines[-1].endswith("a line for the [bold]user[/]")


def test_the_first_two_trained_members_of_the_front_are_lines_with_their_numbers():
    out = console(terminal=False)
    with Progress(SHOWN, console=out) as progress:
        watch(progress, 2)
    text = out.file.getvalue()
    assert "trial 1 complete, on the front: MMMMMMMA-; " in text
    assert "time_per_output_token_ms 14.00 ± 0.42 ms (n=16)" in text
    assert "front now 2 of 2 trained: #0 AAAA, #1 MMMMMMMA-" in text


def test_the_terminal_display_shows_trial_numbers_and_front():
    out = console(terminal=True)
    with Progress(SHOWN, console=out) as progress:
        watch(progress, 4)
        row = rows()[6]
        progress.trial_started(row.number, row.architecture, row.origin, 4, 12)
        progress.stage_started("train recall")
        progress.step("recall", 30, 200, 1.25)
        text = render(progress)
    assert "4 of 12 trained" in text
    assert "recall 30/200  loss 1.2500" in text
    assert "provisional front (4)" in text
    assert "2.120 ± 0.006" in text


def render(progress: Progress) -> str:
    out = Console(file=io.StringIO(), width=160, height=progress.console.height)
    out.print(progress.draw())
    return out.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", ["measured", "estimate"])
def test_the_display_fits_a_small_terminal(source):
    out = console(terminal=True, height=20)
    progress = Progress(SHOWN, console=out)
    watch(progress, 14, source)
    assert len(render(progress).splitlines()) <= 20


def test_a_message_with_brackets_is_printed_as_it_is():
    out = console(terminal=True)
    with Progress(SHOWN, console=out) as progress:
        progress.message("[red]not a colour[/red]")
    assert "[red]not a colour[/red]" in out.file.getvalue()


def test_an_interrupt_leaves_the_terminal_as_it_was():
    out = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), Progress(SHOWN, console=out) as progress:
        watch(progress, 1)
        raise KeyboardInterrupt
    text = out.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert progress.live is None


def test_a_resumed_study_knows_the_members_of_earlier_runs_and_counts_only_new_trials_for_the_time_left(
    monkeypatch,
):
    out = console(terminal=False)
    given = rows()
    with Progress(SHOWN, rows=given[:3], console=out) as progress:
        assert progress.seconds_left() is None
        progress.trial_started(6, given[6].architecture, "sampled", 3, 5)
        now = progress.began + 10
        monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now))
        progress.row_finished(given[6], (0, 6), 4, 5)
        assert progress.seconds_left() == 10
    assert "#0 AAAA, #6 MMMM" in out.file.getvalue()


@pytest.mark.parametrize(("source", "label"), [("estimate", "estimate"), ("table", "predicted")])
def test_lines_and_display_say_what_was_not_measured(source, label):
    out = console(terminal=False)
    with Progress(SHOWN, console=out) as progress:
        watch(progress, 4, source)
        shown = render(progress)
    assert "time_per_output_token_ms ~14" in out.file.getvalue()
    assert f" ms ({label}" in out.file.getvalue()
    assert f"({label})" in shown
    assert "~14.00" in shown


def test_outside_of_trials_the_display_says_what_is_done_and_how_far_it_is():
    progress = Progress(SHOWN, console=console(terminal=True))
    watch(progress, 2)
    assert "between trials" in render(progress)
    with progress:
        progress.message("noise floor: all-attention again on seed 8")
    progress.stage_started("train recall")
    progress.step("recall", 30, 200, 1.25)
    assert "noise floor: all-attention again on seed 8  0:00  train recall  recall 30/200  loss 1.2500" in render(
        progress
    )
    row = rows()[2]
    progress.trial_started(row.number, row.architecture, row.origin, 2, 12)
    assert "noise floor" not in render(progress)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_resumed_run_shows_its_front_at_once(terminal):
    out = console(terminal=terminal)
    with Progress(SHOWN, rows=rows()[:3], front=(1, 2), console=out) as progress:
        shown = render(progress) if terminal else out.file.getvalue()
    assert ("provisional front (2)" if terminal else "#1 MMMMMMMA-, #2 GGGA") in shown
    assert "3 trained" in shown


def test_a_step_costs_some_calls_and_a_drawing_some_tens_of_thousands():
    """Microseconds, and some milliseconds four times a second."""
    progress = Progress(SHOWN, console=console(terminal=True))
    watch(progress, 14)
    assert calls_of(lambda: progress.step("text", 3, 1000, 1.0)) < 30
    render(progress)
    assert calls_of(lambda: render(progress)) < 150_000


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_the_clock_shows_hours_only_when_there_are_some(seconds, text):
    assert clock(seconds) == text
