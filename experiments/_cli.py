"""What the commands share: the environment a process must start with, flags, progress, and errors in one sentence."""

import contextlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import TYPE_CHECKING

import fsspec
from absl import app, flags, logging
from etils import epath
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from jaxdiff.study.config import Table

TERMINATED = 143  # the exit status after SIGTERM
LOCAL = re.compile("^(--?[a-z_.]+=)?file://(?=/)")  # a local path by its address
console = Console(soft_wrap=True, highlight=False)


def prepare_environment() -> None:
    """One single-threaded CPU device a core, the batch split between them: the fastest way that XLA has on a CPU.

    Must run before JAX is imported. Flags that the user has set are left alone. On Linux the process begins again with
    huge pages for large allocations, which glibc takes from the environment at the start alone: XLA gives its temporary
    memory back after every call, and without them a seventh of a train step goes to page faults.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    devices = 1 << (min(cores, 8).bit_length() - 1)  # a power of two divides the usual batches
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in given:
        ours = (
            f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false"
        )
        os.environ["XLA_FLAGS"] = f"{given} {ours}".strip()
    # OpenBLAS' threads spin for one another. Where another process has the cores, as in a study shared by several, the
    # eigenvalues of a 256 x 256 matrix take 10 to 180 times as long with two as with one; on free cores two gain nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    entry = getattr(
        sys.modules["__main__"], "__spec__", None
    )  # None in a notebook; pytest's own under pytest
    is_ours = entry is not None and entry.name.partition(".")[0] in ("experiments", "benchmarks")
    if is_ours and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def define_distributed() -> None:
    """The flags of a run of several processes."""
    flags.DEFINE_bool(
        "distributed", False,
        "This is one of several processes that run the same command on one cell at a time; JAX finds the others by "
        "SLURM, Kubernetes, Cloud TPU or Open MPI, or by the three flags that follow.",
    )  # fmt: skip
    flags.DEFINE_string("coordinator", "", "HOST:PORT of the process with --process_id=0.")
    flags.DEFINE_integer("processes", 0, "How many processes there are.", lower_bound=0)
    flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.")


def start_distributed() -> None:
    """Join the other processes, where the flags say that there are some."""
    given = flags.FLAGS
    if given.distributed or given.coordinator:
        from jaxdiff import parallel

        parallel.start(given.coordinator, given.processes, given.process_id)
        console.quiet = not parallel.is_leader()


def run(main: Callable[[], None], description: str, table: "Table | None" = None) -> None:
    """Parse the flags and call `main`; a ValueError or an OSError becomes one sentence and exit status 1. table: of the
    settings of --config, a study's by default.

    SIGTERM in training saves it first; the exit status is then 143.

    JAXDIFF_TRACEBACK=1 shows where it was raised.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS([LOCAL.sub(r"\1", argument) for argument in argv])
        except Exception as error:  # ml_collections raises whatever a config file raises
            fail(_sentence(argv, error, table))
        if len(rest) > 1:
            fail(f"unexpected argument {rest[1]!r}; every option starts with --")
        return rest

    def guarded(_: Sequence[str]) -> None:
        try:
            main()
        except (ValueError, OSError) as error:
            if os.environ.get("JAXDIFF_TRACEBACK"):
                traceback.print_exc()
            fail(_sentence(sys.argv, error, table))
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from the last checkpoint")

    sys.modules["__main__"].__doc__ = description
    for bucket in ("gs", "gcs", "s3"):  # what other machines write there is to be seen
        fsspec.config.conf.setdefault(bucket, {}).setdefault("use_listings_cache", False)
    logging.set_verbosity(logging.FATAL)  # Orbax logs a traceback of what is then raised
    logging.set_stderrthreshold("fatal")
    signal.signal(signal.SIGTERM, _terminate)
    handler = RichHandler(console=console, show_time=False, show_path=False)
    ours = getLogger("jaxdiff")
    ours.addHandler(handler)
    ours.setLevel("WARNING")  # absl sets the level of the root logger to its own
    ours.propagate = False
    app.run(guarded, flags_parser=parse)


def _terminate(*_: object) -> None:
    """Leave at once where this process is alone. A SystemExit that is raised wherever the signal lands can be swallowed (by
    Orbax's event loop, by a callback of the garbage collector), and Python would take apart what JAX's threads still compute
    with. Nothing is lost: files take their name when they are whole."""
    sentence = "told to end (SIGTERM); the same command goes on from here"
    jax = sys.modules.get("jax")  # experiments.report has none
    if jax is not None and jax.distributed.is_initialized():
        fail(sentence, status=TERMINATED)
    with contextlib.suppress(RuntimeError):  # it may be printing just now
        console.show_cursor()
        sys.stdout.flush()
    os.write(2, f"error: {sentence}\n".encode())  # nothing is buffered
    os._exit(TERMINATED)


def fail(sentence: str, status: int = 1) -> None:
    """Print one sentence and leave."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _sentence(argv: Sequence[str], error: Exception, table: "Table | None") -> str:
    """Why the flags could not be read: an unknown key is named with the one nearest to it."""
    from jaxdiff.study.config import TABLE, default_config, get, nearest_key

    table = table or TABLE

    config_file = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
    if config_file is None and "--config" in argv[:-1]:
        config_file = argv[list(argv).index("--config") + 1]
    if config_file and not os.path.exists(
        config_file.split(":")[0]
    ):  # what follows ":" goes to get_config
        return f"there is no config file {config_file}; see configs/ for those that exist"
    kinds = {name: type(get(default_config(table), name)).__name__ for name, _, _ in table}
    for argument in argv:
        if argument.startswith("--config."):
            key, _, value = argument.removeprefix("--config.").partition("=")
            if key.startswith("models"):
                return "config.models is changed in the config file, not by a flag; --cells chooses among its models"
            if near := nearest_key(key, table):
                return f"config.{key} does not exist; did you mean config.{near}? --help lists every key"
            if isinstance(
                error, flags.IllegalFlagValueError | TypeError
            ) and f"config.{key}" in str(error):
                return f"config.{key} cannot be {value!r}; a value of type {kinds.get(key, 'the default')} is expected"
    return _in_words(error)


def whole_numbers(values: list[str], flag: str) -> tuple[int, ...]:
    """The values of a list flag. Raises ValueError naming the flag."""
    if not all(value.isdigit() for value in values):
        raise ValueError(
            f"--{flag} is {','.join(values)}; whole numbers with commas between them are expected"
        )
    return tuple(int(value) for value in values)


def names(paths: list[str]) -> list[str]:
    """A short name for each file or folder: its own, numbered where two are alike."""
    short = [epath.Path(path).resolve().stem for path in paths]
    unique = len(set(short)) == len(short)
    return short if unique else [f"{i + 1}-{name}" for i, name in enumerate(short)]


class Reporter:
    """Progress of long work: a live bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, every: float = 10.0):
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        self._live = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}
        self._every, self._printed, self._begun = every, 0.0, {}  # type: ignore[var-annotated]
        self.prefix = ""

    def __enter__(self) -> "Reporter":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        name, now = f"{self.prefix} {what}".strip(), time.time()
        new = name not in self._tasks
        if new:
            self._tasks[name] = self._live.add_task(name, total=total, note=note)
            self._begun[name] = (done, now)
        self._live.update(
            self._tasks[name], completed=done, total=total, note=note, visible=done < total
        )
        if not console.is_terminal and (new or done == total or now - self._printed > self._every):
            first, begun = self._begun[name]
            left = (now - begun) / max(done - first, 1) * (total - done)
            remaining = f", about {left:.0f} s left" if done > first and done < total else ""
            console.print(f"{name}: {done}/{total} {note}{remaining}".rstrip())
            self._printed = now
