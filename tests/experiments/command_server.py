"""Commands in forks of one process that has imported what they import.

To import takes a command three seconds of a core, and the tests run a hundred of them. A fork runs
a module as `python -m` does, and ends as a process does. What it cannot show is what happens before
the imports: tests of signals, of the environment and of the start itself use processes of their
own. JAX has no threads before its first device is asked for, so that its fork is safe.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import tempfile
from typing import NamedTuple

PRELOADED = (
    "jaxdiff.bypass.cells",
    "jaxdiff.evaluation",
    "jaxdiff.landscape.theorem_run",
    "jaxdiff.planning.plan",
    "jaxdiff.probe.run",
    "jaxdiff.report.page",
    "jaxdiff.study.cost",
    "jaxdiff.study.preflight",
    "jaxdiff.study.stages",
    "rich.progress",
    "scipy.stats",
)
READ_BY_IMPORTS = ("HF_", "JAX_", "PYTHON")  # variables of which each value has its own server


class Finished(NamedTuple):
    """The exit status of a process and what it printed."""

    status: int
    out: str
    err: str


def run(module: str, *arguments: str, environment: dict[str, str], timeout: float) -> Finished:
    """Run a module to its end, in this environment."""
    settings = {k: v for k, v in environment.items() if k.startswith(READ_BY_IMPORTS)}
    server = _start(tuple(sorted(settings.items())))
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"module": module, "arguments": arguments, "environment": environment}
    server.stdin.write(json.dumps(request | {"folder": os.getcwd()}) + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout)[0]:
        server.kill()
        _start.cache_clear()
        raise TimeoutError(f"{module} {' '.join(arguments)} took more than {timeout} seconds")
    return Finished(**json.loads(server.stdout.readline()))


@functools.cache
def _start(settings: tuple[tuple[str, str], ...]) -> subprocess.Popen:
    """The server of this process for what imports read of the environment."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.experiments.command_server"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=os.environ | dict(settings), **pipes)
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen) -> None:
    with server:  # closes its pipes; at the end of its input it ends
        pass


def serve() -> dict | None:
    """Answer requests until there are no more; in a fork, return the request that it runs."""
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            fork = os.fork()
            if not fork:
                with open(os.devnull) as nothing:
                    os.dup2(nothing.fileno(), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                return request
            _, status = os.waitpid(fork, 0)
            printed = {}
            for name, file in (("out", out), ("err", err)):
                file.seek(0)
                printed[name] = file.read().decode()
        answer = {"status": os.waitstatus_to_exitcode(status)} | printed
        print(json.dumps(answer), flush=True)
    return None


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    requested = serve()
    if requested is not None:
        os.chdir(requested["folder"])
        os.environ.clear()
        os.environ.update(requested["environment"])
        sys.argv = [requested["module"], *requested["arguments"]]
        runpy.run_module(requested["module"], run_name="__main__", alter_sys=True)
