"""Where documents come from: the running Python's library, local files, or a data set of the Hub; one code path.

All three are read through `datasets`, which this file alone imports (late: it takes most of a second). A source says
which documents there are and carries a fingerprint; what is made of the documents is not its business.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.tasks.base import TaskError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

STDLIB = "stdlib"
STDLIB_BYTES = 3_000_000
# Tests, vendored packages, generated tables and the documentation's data say little about language.
STDLIB_SKIPPED = frozenset(
    "test tests idle_test site-packages __pycache__ lib2to3 encodings pydoc_data __phello__ turtledemo".split()
)
BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".txt": "text", ".py": "text", ".md": "text"}
COLUMNS = ("text", "content")
# Below this many files a text file is read by paragraph, so that there are documents to hold out.
FEW_FILES = 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to read: `dataset` is "stdlib", a local file or folder, or a name on the Hub (with its `config`)."""

    dataset: str
    config: str | None
    split: str
    column: str | None
    streaming: bool

    def fingerprint(self) -> str:
        """Changes when the documents may have changed."""
        files = self.files()
        stats = "" if files is None else repr([(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files])
        return hashlib.sha256(f"{self!r}{stats}".encode()).hexdigest()[:16]

    def files(self) -> list[Path] | None:
        """The local files to read, in a fixed order; None for a data set of the Hub."""
        if self.dataset == STDLIB:
            return stdlib_files()
        path = Path(self.dataset).expanduser()
        if path.is_file():
            found = [path]
        elif path.is_dir():
            found = sorted(f for f in path.rglob("*") if f.suffix in BUILDERS and f.is_file())
        elif path.suffix in BUILDERS or self.dataset.startswith((".", "/", "~")):
            raise TaskError(
                f"dataset {self.dataset!r} is no file or folder here; give a path that exists, a name on the Hub, "
                f"or {STDLIB!r}."
            )
        else:
            return None
        kinds = {BUILDERS.get(f.suffix) for f in found}
        if len(kinds) != 1 or None in kinds:
            held = ", ".join(sorted({f.suffix or f.name for f in found})) or "none"
            raise TaskError(
                f"dataset {self.dataset!r} must hold files of one kind among {', '.join(BUILDERS)}, but holds {held}."
            )
        if not any(f.stat().st_size for f in found):
            raise TaskError(f"dataset {self.dataset!r} must hold text, but all its files are empty.")
        return found

    def documents(self, split: str, cache_dir: Path) -> Iterator[str]:
        """The non-empty documents of a split in the data set's order. Raises TaskError when they cannot be read."""
        with quiet(), explained(self.dataset):
            rows = self.load(split, cache_dir)
            first = next(iter(rows), None)
            if first is None:
                raise TaskError(f"dataset {self.dataset!r} has no rows in split {split!r}; choose another split.")
            column = text_column(first, self.column, self.dataset)
            for row in rows.select_columns([column]):
                document = row[column]  # type: ignore[index]
                if document and not isinstance(document, str):
                    raise TaskError(
                        f"column {column!r} of dataset {self.dataset!r} must hold text in every row, but one has "
                        f"{str(document)[:50]!r}; choose another column= or mend the file."
                    )
                if document:
                    yield document

    def load(self, split: str, cache_dir: Path) -> Dataset | IterableDataset:
        """The rows, as `datasets` gives them."""
        from datasets import load_dataset

        hub_cache = str(cache_dir / "datasets")
        files = self.files()
        if files is None:
            if self.streaming:
                return load_dataset(self.dataset, self.config, split=split, streaming=True)
            return load_dataset(self.dataset, self.config, split=split, cache_dir=hub_cache)
        builder = BUILDERS[files[0].suffix]
        paths = [str(f) for f in files]
        if builder != "text":
            return load_dataset(builder, data_files=paths, split="train", streaming=self.streaming, cache_dir=hub_cache)
        return load_dataset(
            "text",
            data_files=paths,
            split="train",
            streaming=self.streaming,
            cache_dir=hub_cache,
            sample_by="paragraph" if len(files) < FEW_FILES else "document",
            encoding_errors="replace",
        )

    def validation_split(self) -> str | None:
        """The name of the Hub's own validation split, where the set has one."""
        if self.files() is not None:
            return None
        from datasets import get_dataset_split_names

        with quiet(), explained(self.dataset):
            return "validation" if "validation" in get_dataset_split_names(self.dataset, self.config) else None


def stdlib_files() -> list[Path]:
    """About 3 MB of the running Python's own sources: the same files for the same Python, in hashed order."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [f for f in root.rglob("*.py") if not STDLIB_SKIPPED.intersection(f.relative_to(root).parts)]
    found.sort(key=lambda f: hashlib.sha256(f.relative_to(root).as_posix().encode()).digest())
    chosen, size = [], 0
    for f in found:
        # Python runs from a zip or without its sources on a few systems; then nothing is found.
        if size >= STDLIB_BYTES:
            break
        if 0 < f.stat().st_size < STDLIB_BYTES // 20:
            chosen.append(f)
            size += f.stat().st_size
    if size < STDLIB_BYTES // 3:
        raise TaskError(
            f"dataset {STDLIB!r} reads this Python's own sources, but {root} holds {size} bytes of them; "
            "give dataset= a local folder or a name on the Hub."
        )
    return chosen


def text_column(row: dict[str, object], wanted: str | None, dataset: str) -> str:
    """The column that holds the text: the one asked for, a usual name, or the only column of strings."""
    strings = [name for name, value in row.items() if isinstance(value, str)]
    if wanted is not None:
        if wanted in strings:
            return wanted
        raise TaskError(f"column {wanted!r} of dataset {dataset!r} holds no text; valid: {', '.join(strings)}.")
    for name in COLUMNS:
        if name in strings:
            return name
    if len(strings) == 1:
        return strings[0]
    if not strings:
        raise TaskError(
            f"dataset {dataset!r} must have a column of text, but its first row has none ({', '.join(row) or 'empty'})."
        )
    raise TaskError(f"dataset {dataset!r} has {len(strings)} text columns ({', '.join(strings)}); choose with column=.")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings and reports of `datasets`; what was set before is set again."""
    import datasets

    bars, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def explained(dataset: str) -> Iterator[None]:
    """Any failure of reading, network included, as one sentence; what failed hangs below it.

    Readers of files, of the Hub and of the network each have errors of their own, many of them plain exceptions.
    """
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        # `datasets` says "an error occurred" and hangs what happened below it.
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        cause = " ".join(f"{type(root).__name__}: {root}".split())[:200].rstrip(".: ")
        local = dataset == STDLIB or Path(dataset).expanduser().exists()
        advice = "mend or remove the file" if local else "check its name and the connection"
        raise TaskError(
            f"dataset {dataset!r} could not be read ({cause}); {advice}, or use dataset={STDLIB}, which needs "
            "neither file nor network."
        ) from error
