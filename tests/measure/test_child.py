"""Functions in a process of their own: answers, errors, deaths, and the resident set."""

import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.measure.child import ChildFailed, in_child, resident_peak_bytes, servers_environment
from nas.measure.memory import DoesNotFit
from tests.patience import wait_until

MIB = 1 << 20


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("takes two")


def state() -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


def refuse(kind: str) -> None:
    if kind == "unpicklable":
        raise Unpicklable(1, 2)
    raise DoesNotFit("needs 5 bytes more")


def die(by: int) -> None:
    os.kill(os.getpid(), by)


def hold(mebibytes: int) -> int:
    """Holds that much twice over at once, and gives half back before it ends."""
    ones = torch.ones(mebibytes * MIB // 4)
    return (ones + 1).numel()


def test_a_child_answers_and_is_another_process() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        child, threads = in_child(state)
    finally:
        torch.set_num_threads(before)
    assert child != os.getpid()
    assert threads == before + 1
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_child_is_ready_at_once() -> None:
    """It imports nothing that the server has imported, which would take it seconds on a processor."""
    in_child(operator.add, 1, 2)  # starts the server
    assert in_child(eval, "(__import__('time').process_time() < 0.5, 'torch' in __import__('sys').modules)") == (
        True,
        True,
    )


def test_tensors_come_back_by_value() -> None:
    doubled = in_child(torch.add, torch.arange(3), torch.arange(3))
    assert doubled.tolist() == [0, 2, 4]


def test_the_error_of_a_child_is_raised_here_and_says_where_it_was() -> None:
    with pytest.raises(DoesNotFit, match="needs 5 bytes more") as caught:
        in_child(refuse, "memory")
    assert "in refuse" in caught.value.__notes__[0]
    with pytest.raises(ChildFailed, match="Unpicklable: takes two"):
        in_child(refuse, "unpicklable")


def test_a_killed_child_did_not_fit_and_a_broken_one_failed() -> None:
    with pytest.raises(DoesNotFit, match="memory runs out"):
        in_child(die, signal.SIGKILL)
    with pytest.raises(ChildFailed, match=f"signal {int(signal.SIGTERM)}"):
        in_child(die, signal.SIGTERM)
    with pytest.raises(ChildFailed, match="code 3"):
        in_child(os._exit, 3)


PARENT = """
import os, pathlib, sys, time
from nas.measure.child import in_child

def wait(told):
    pathlib.Path(told + ".new").write_text(str(os.getpid()))
    pathlib.Path(told + ".new").rename(told)
    time.sleep(3600)

if __name__ == "__main__":
    try:
        in_child(wait, sys.argv[1])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    in_child(wait, sys.argv[2])
"""


def appears(file: Path) -> int:
    """The process that tells its number in `file`."""
    wait_until(file.exists, "a process tells its number")
    return int(file.read_text())


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_ends_when_its_parent_is_interrupted_or_killed(tmp_path: Path) -> None:
    script, first, second = tmp_path / "parent.py", tmp_path / "first", tmp_path / "second"
    script.write_text(PARENT)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, str(script), str(first), str(second)]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        interrupted = appears(first)
        parent.send_signal(signal.SIGINT)
        wait_until(lambda: is_gone(interrupted), "its child is gone")
        orphan = appears(second)
        parent.kill()
        wait_until(lambda: is_gone(orphan), "its child is gone")
        assert parent.stdout is not None and parent.stderr is not None
        assert parent.stdout.read() == "interrupted\n"
        assert "Traceback" not in parent.stderr.read()


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is read from /proc")
def test_the_resident_peak_is_what_was_held_at_once() -> None:
    for mebibytes in (8, 32):
        numbers, peak = resident_peak_bytes(hold, mebibytes)
        assert numbers == mebibytes * MIB // 4
        assert peak is not None
        assert peak == pytest.approx(2 * mebibytes * MIB, rel=0.3), "pages may be large"


@pytest.mark.parametrize("policy", [None, "PASSIVE"])
def test_a_measuring_process_waits_as_a_server_does_unless_the_user_has_a_policy(
    policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    with servers_environment():
        assert os.environ["MALLOC_TOP_PAD_"]
        assert (os.environ["GOMP_SPINCOUNT"] == "7") == (policy is not None)
    assert os.environ["GOMP_SPINCOUNT"] == "7" and "MALLOC_TOP_PAD_" not in os.environ
