"""What a committed number depends on beside its device: the commit of the code, and versions of libraries."""

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The commit of the code at hand, marked where files differ from it; `unknown` without a repository or git."""
    if shutil.which("git") is None:
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def version_of(package: str) -> str:
    """The installed version, or `none`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
