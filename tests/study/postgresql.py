"""A PostgreSQL server of one's own for a test: made in a temporary folder, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import PATIENCE

DEBIAN = Path("/usr/lib/postgresql")
USER = "postgres"  # the server refuses to run as root; Debian's package makes this user


def program(name: str) -> str | None:
    """A server program: from the PATH, or where Debian keeps it, the newest version."""
    places = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]), reverse=True)
    return shutil.which(name) or next((str(path) for path in places), None)


@dataclass(frozen=True)
class Server:
    """It listens on a socket in its folder: a port that is free now may be another program's when it is asked for."""

    folder: Path

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{USER}@/{USER}?host={self.folder}"

    def start(self) -> None:
        self.control("start", "-l", str(self.folder / "log"), "-o", f"-k {self.folder} -c fsync=off -h ''")

    def stop(self) -> None:
        """As a crash would: connections are cut, nothing is tidied up."""
        self.control("stop", "-m", "immediate")

    def control(self, what: str, *arguments: str) -> None:
        """Waits until it is done."""
        run("pg_ctl", what, "-D", str(self.folder / "data"), "-w", "-t", f"{PATIENCE:.0f}", *arguments)


def run(name: str, *arguments: str) -> None:
    command = program(name)
    assert command is not None
    prefix = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
    subprocess.run([*prefix, command, *arguments], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=PATIENCE)


@contextmanager
def running_server() -> Iterator[Server]:
    """A server for the block; skips the test, with the reason, where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[postgresql]'")
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if os.getuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user {USER}")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, USER)
    server = Server(folder)
    try:
        run("initdb", "-D", str(folder / "data"), "-U", USER, "-A", "trust", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
