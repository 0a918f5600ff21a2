"""Scripts as processes of their own that need not import torch first: copies of one process that has.

A user's mistake is answered by a whole command, of which importing takes nine tenths. `run_script` gives what
`subprocess.run` would. The process that is copied reads a request a line (JSON) and answers with an exit code.
"""

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = ("scripts.search_job", "scripts.settings", "scripts.launching", "nas.training", "hydra.main")


def run_script(
    script: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The exit code and what a script of the repository wrote, run from the folder `cwd`.

    environment: its variables, which matter unless they are read on import; None for those of the copied process.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = warm_process()
        streams = [f"/proc/{os.getpid()}/fd/{stream.fileno()}" for stream in (out, errors)]
        request = {"script": str(ROOT / script), "arguments": arguments, "cwd": str(cwd), "streams": streams}
        request["environment"] = environment
        print(json.dumps(request), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        assert answer, "the process that scripts are copied from has ended; its output is above"
        texts = [stream.seek(0) or stream.read() for stream in (out, errors)]
    return subprocess.CompletedProcess([script, *arguments], int(answer), *texts)


@cache
def warm_process() -> subprocess.Popen[str]:
    """The process that is copied. Kernels in it are those for a GPU: scripts are run as users run them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.warm_process"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.kill)
    return process


def serve() -> None:
    """Answer requests until there are no more."""
    for name in PRELOADED:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(**request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(
    script: str, arguments: Sequence[str], cwd: str, streams: Sequence[str], environment: Mapping[str, str] | None
) -> NoReturn:
    """Be a script from here on."""
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
