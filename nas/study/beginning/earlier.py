"""Which study a search learns from, free of torch and Optuna."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A study to learn from: its folder, its name, and where it is kept."""

    directory: Path
    name: str
    storage: str | None
