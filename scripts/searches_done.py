"""The searches that were replayed, a line each, so that a later command goes on from them instead of repeating them.

A line tells what was searched (problem, variant, overrides, seed, table) and what came of it, architectures by their
place in the table. Judging them costs seconds, replaying them hours.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.command_line import UserError
from scripts.search_verdict import Found


@dataclass(frozen=True)
class Run:
    """One search to be replayed: what distinguishes it on the command line, and its seed. table: a path."""

    problem: str
    variant: str
    overrides: tuple[str, ...]
    table: str
    seed: int


@dataclass(frozen=True)
class Done:
    """A search that was replayed, by the code of a commit."""

    found: Found
    commit: str


class SearchesDone:
    """The lines of one file. table: the path of the oracle's table, whose content each line names; ids: the table's
    architectures in their order, by the ids they have today."""

    def __init__(self, path: Path, table: Path, ids: Iterable[str]) -> None:
        self.path = path
        self.ids = tuple(ids)
        self.places = {identity: place for place, identity in enumerate(self.ids)}
        self.digest = hashlib.sha256(table.read_bytes()).hexdigest()[:12]
        self.done: dict[tuple[str, ...], Done] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), 1):
            try:
                self._keep(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(
                    f"Line {number} of {path} must tell a search that was replayed, but cannot be read ({error!r}); "
                    "delete the line to replay that search again."
                ) from None

    def get(self, run: Run) -> Done | None:
        return self.done.get(self._key(run.problem, run.variant, run.overrides, run.seed))

    def add(self, run: Run, found: Found, commit: str) -> None:
        """Keeps a search, on disk at once."""
        line = {
            "problem": run.problem,
            "variant": run.variant,
            "overrides": run.overrides,
            "seed": run.seed,
            "table": self.digest,
            "commit": commit,
            "found": [self.places[identity] for identity in found.found],
            "spent": found.spent,
            "wasted": found.wasted,
            "seconds": round(found.seconds, 2),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._keep(json.loads(json.dumps(line)))

    def _keep(self, line: dict) -> None:
        if line["table"] != self.digest:
            return  # of another table, whose places are others
        found = Found(
            problem=line["problem"],
            variant=line["variant"],
            seed=line["seed"],
            found=tuple(self.ids[place] for place in line["found"]),
            spent=tuple(float(spent) for spent in line["spent"]),
            wasted=line["wasted"],
            seconds=line["seconds"],
        )
        key = self._key(found.problem, found.variant, line["overrides"], found.seed)
        self.done[key] = Done(found, line["commit"])

    def _key(self, problem: str, variant: str, overrides: Iterable[str], seed: int) -> tuple[str, ...]:
        return (problem, variant, *overrides, str(seed))
