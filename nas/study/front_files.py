"""The files of a study's front: the architecture of each member and its trained weights, and of nobody else."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.architecture import write_architecture
from nas.study.candidate import Candidate, Evaluator
from nas.study.rows import Row


@dataclass(frozen=True, kw_only=True)
class FrontFiles:
    """folder: `architectures` of the study. say: is told what could not be kept. One worker at a time may use it."""

    folder: Path
    evaluator: Evaluator
    say: Callable[[str], None]

    def keep(self, row: Row, candidate: Candidate, rows: Sequence[Row], members: Collection[int]) -> None:
        """Store architecture and weights of a new row if it is a member; delete those of rows that left."""
        if row.number in members:
            try:
                self._write_architecture(row)
                self.evaluator.save(candidate, str(self.folder / row.id))
            except OSError as error:  # a full disk costs the files, not the trial
                self.say(f"the files of trial {row.number} were not written ({error}); its row is kept")
        self._delete_others(rows, members)

    def write(self, rows: Sequence[Row], members: Collection[int]) -> None:
        """The architecture file of every member; a late one has no weights, because it was none when it was trained."""
        for row in rows:
            if row.number in members and not (self.folder / f"{row.id}.yaml").exists():
                try:
                    self._write_architecture(row)
                except OSError as error:
                    self.say(f"the architecture file of trial {row.number} was not written ({error}); its row is kept")
                    continue
                self.say(f"trial {row.number} came onto the front after its training, so its weights were not kept")
        self._delete_others(rows, members)

    def _write_architecture(self, row: Row) -> None:
        path = self.folder / f"{row.id}.yaml"
        write_architecture(path, row.architecture, comment=f"trial {row.number}, {row.origin}")

    def _delete_others(self, rows: Sequence[Row], members: Collection[int]) -> None:
        kept = {row.id for row in rows if row.number in members}
        for path in self.folder.iterdir():
            if path.suffix in (".yaml", ".safetensors") and path.stem not in kept:
                path.unlink(missing_ok=True)
