"""What the commands share: the environment of a process, flags, progress, one-sentence errors."""

import contextlib
import dataclasses
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from logging import getLogger

import fsspec
from absl import app, flags, logging
from etils import epath
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from experiments import _errors, _help

REFUSED = 2  # exit status for input that would be refused again: no launch file repeats it
TERMINATED = 143  # exit status after SIGTERM
# file:///PATH is taken as /PATH: what has :// in it counts as a bucket (`files.is_in_bucket`).
LOCAL_ADDRESS = re.compile("^(--?[a-z_.]+=)?file://(?=/)")
MODEL_HELP = "A cell's folder, a diffusers folder, or a repository id of the hub, OWNER/NAME."
# Names and paths are printed as they are: rich would take [x] for markup, and :x: for an emoji.
console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def prepare_environment() -> None:
    """Set what a process needs before JAX is imported; what the user has set is left alone.

    One single-threaded CPU device a core, with the batch split between them, is the fastest way
    that XLA has on a CPU. On Linux the process begins again with huge pages for large
    allocations, which glibc reads from the environment at the start alone: XLA gives its
    temporary memory back after every call, and without huge pages a seventh of a train step goes
    to page faults.
    """
    if _is_command():
        _check_flagfiles()
    # First parameters are drawn and models are counted on the CPU, whatever is named beside it.
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"
    flags_set = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags_set:
        devices = f"--xla_force_host_platform_device_count={_cpu_devices()}"
        single = "--xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = f"{flags_set} {devices} {single}".strip()
    # OpenBLAS' threads spin for one another: where another process has the cores, two of them take
    # 10 to 180 times as long as one for a matrix of 256 x 256; on free cores they gain nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if not sys.stderr.isatty():  # a line says what is fetched
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if _is_command() and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _cpu_devices() -> int:
    """As many as there are cores, at most 8; a power of two divides the usual batches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 << (min(cores or 1, 8).bit_length() - 1)


def _check_flagfiles() -> None:
    """Fail where a --flagfile cannot be read, which ml_collections does as soon as --config is."""
    try:
        flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
    except (flags.Error, ValueError) as error:
        reason = " ".join(str(error).removeprefix("ERROR:: ").split())
        fail(
            f"--flagfile must name a text file with one flag per line ({reason}); correct its path",
            REFUSED,
        )


def _is_command() -> bool:
    """Whether this process runs a command of ours: not a notebook, not the tests."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in ("experiments", "benchmarks")


def define_config(help: str, settings_class: type | None = None) -> None:
    """The flag --config; a study's by default."""
    from experiments import _config  # imports JAX, which the environment comes before

    _config.define_config(help, *[settings_class] if settings_class else [])


def define_workdir(example: str) -> None:
    """The flag --workdir, which has to be given."""
    flags.DEFINE_string("workdir", None, f"Output folder, such as {example}.")


def define_data() -> None:
    """The flags that say where data are."""
    flags.DEFINE_string("data_dir", None, "Folder of the published data.")
    flags.DEFINE_string("cache", None, "Folder of prepared datasets; by default under the workdir.")


def define_redo() -> None:
    """The flag --redo."""
    flags.DEFINE_list(
        "redo",
        [],
        "Stages or measures to make again although they are done, by name or glob; 'all' is "
        "everything but training.",
    )


def define_plugins() -> None:
    """The flag --plugins."""
    flags.DEFINE_list(
        "plugins", [], "Modules imported first, which register measures, models or datasets."
    )


def define_distributed() -> None:
    """The flags of a run of several processes."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "One of several processes that run the same command together; JAX finds the others by "
        "SLURM, Cloud TPU or Open MPI, or by the three flags that follow.",
    )
    flags.DEFINE_string("coordinator", "", "HOST:PORT of the process with --process_id=0.")
    flags.DEFINE_integer("processes", 0, "Number of processes.", lower_bound=0)
    flags.DEFINE_integer("process_id", -1, "Index of this process, from 0.")


def start_devices() -> None:
    """Join the other processes, where the flags say that there are any, and open the devices."""
    import jax

    from jaxdiff import compilation_cache, parallel

    if "distributed" in flags.FLAGS and (flags.FLAGS.distributed or flags.FLAGS.coordinator):
        parallel.start(flags.FLAGS.coordinator, flags.FLAGS.processes, flags.FLAGS.process_id)
        console.quiet = not parallel.is_leader()
    elif "distributed" in flags.FLAGS and (flags.FLAGS.processes or flags.FLAGS.process_id >= 0):
        raise ValueError(
            "--processes and --process_id need --coordinator=HOST:PORT, of the process with "
            "--process_id=0, or --distributed"
        )
    if folder := compilation_cache.enable(jax.default_backend()):
        console.print(f"compiled programs are kept in {folder}")


def check_required(*names: str) -> None:
    """Raise ValueError for the first of these flags that is not given."""
    for name in names:
        if not flags.FLAGS[name].value:
            raise ValueError(f"--{name} is missing; --help shows an example")


def run(main: Callable[[], None], description: str, settings_class: type | None = None) -> None:
    """Parse the flags and call `main`; an error is one sentence and exit status 1 or 2.

    2 is for flags and values that are refused, 1 for what may be another time, as a full disk. What
    is no error of the input is a fault of jaxdiff, whose traceback is in a file. SIGTERM in
    training saves it first; the exit status is then 143. JAXDIFF_TRACEBACK=1 shows where an error
    was raised.

    Parameters
    ----------
    main
        The command.
    description
        Text of --help.
    settings_class
        The settings of --config; a study's by default.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        arguments = [LOCAL_ADDRESS.sub(r"\1", argument) for argument in argv]
        if _help.asks_for_help(arguments):
            print(_help.format_help(description))
            sys.exit(0)
        if _help.asks_for_settings(arguments):
            print(_help.format_settings(settings_class or _help.study_settings()))
            sys.exit(0)
        try:
            positional = flags.FLAGS(arguments)
        except SystemExit:  # absl's --helpfull ends with 1
            sys.exit(0)
        except Exception as error:
            fail(_errors.explain_input(argv, error, settings_class), REFUSED)
        if len(positional) > 1:
            fail(f"unexpected argument {positional[1]!r}; every option starts with --", REFUSED)
        return positional

    def run_guarded(_: Sequence[str]) -> None:
        try:
            main()
        except Exception as error:
            if os.environ.get("JAXDIFF_TRACEBACK"):
                traceback.print_exc()
            is_input = isinstance(error, ValueError | OSError) and not _errors.is_full_disk(error)
            if is_input:
                status = REFUSED if isinstance(error, ValueError) else 1
                fail(_errors.explain_input(sys.argv, error, settings_class), status)
            fail(_errors.describe(error))
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from the last checkpoint")

    sys.modules["__main__"].__doc__ = description
    for bucket in ("gs", "gcs", "s3"):  # a cached listing would hide what other machines write
        fsspec.config.conf.setdefault(bucket, {}).setdefault("use_listings_cache", False)
    _configure_logging()
    signal.signal(signal.SIGTERM, _terminate)
    app.run(run_guarded, flags_parser=parse)


def _configure_logging() -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax logs a traceback of what is then raised
    logging.set_stderrthreshold("fatal")
    logger = getLogger("jaxdiff")
    logger.addHandler(RichHandler(console=console, show_time=False, show_path=False))
    logger.setLevel("INFO")  # absl sets the level of the root logger to its own
    logger.propagate = False


def _terminate(*_: object) -> None:
    """Leave at once where this process is alone.

    A SystemExit that is raised wherever the signal lands can be swallowed (by Orbax's event loop,
    by a callback of the garbage collector), and Python would take apart what JAX's threads still
    compute with. Nothing is lost: files take their name when they are complete.
    """
    sentence = "received SIGTERM; run the same command again to resume"
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


def parse_integers(values: Sequence[str], flag: str) -> tuple[int, ...]:
    """The values of a list flag. Raises ValueError naming the flag."""
    if not all(value.isdigit() for value in values):
        raise ValueError(f"--{flag} must be whole numbers with commas between them, got {values}")
    return tuple(int(value) for value in values)


def output_file(flag: str, suffix: str, sources: Sequence[str] = ()) -> epath.Path:
    """The file that a flag names, checked before any work is done.

    Parameters
    ----------
    flag
        The flag's name.
    suffix
        How the file has to end, so that no other output of the command takes its name.
    sources
        Files and folders that the command reads, which no output may replace or join.

    Raises
    ------
    ValueError
        Where the name ends otherwise, is a folder's, or is within a source.
    """
    path = epath.Path(flags.FLAGS[flag].value)
    if not path.name.removesuffix(suffix) or not path.name.endswith(suffix):
        raise ValueError(
            f"--{flag} must name a file that ends in {suffix}, got {str(path)!r}; choose another "
            "name"
        )
    if path.is_dir():
        raise ValueError(f"--{flag} must name a file, and {path} is a folder; add a file's name")
    place = path.resolve()
    for source in sources:
        if epath.Path(source).resolve() in (place, *place.parents):
            raise ValueError(
                f"--{flag} must be outside what is read, and {path} is in {source}; choose another "
                "folder"
            )
    return path


def short_names(paths: Sequence[str]) -> list[str]:
    """A short name for each file or folder: its own, numbered where two are alike."""
    # Of a file of samples without its ending; a folder's name may have points in it.
    names = [epath.Path(path).resolve().name.removesuffix(".npz") for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{i + 1}-{name}" for i, name in enumerate(names)]


@dataclasses.dataclass
class _Work:
    """Work that is reported: its bar, and the units done at the first call and where time began."""

    bar: TaskID
    first: int
    start: tuple[int, float] | None = None


class Reporter:
    """Progress of long work: a live bar on a terminal, a line every few seconds elsewhere.

    Parameters
    ----------
    every
        Seconds between lines where the output is no terminal.

    Attributes
    ----------
    prefix
        Stands before every task's name.
    """

    def __init__(self, every: float = 10.0):
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self.prefix = ""
        self._is_live = console.is_terminal
        self._live = Progress(*columns, console=console, transient=True, disable=not self._is_live)
        self._works: dict[str, _Work] = {}
        self._every = every
        self._printed: set[str] = set()
        self._printed_at = 0.0

    def __enter__(self) -> "Reporter":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        name = f"{self.prefix} {task}".strip()
        is_new = name not in self._works
        if is_new:
            bar = self._live.add_task(name, total=total, note=note)
            self._works[name] = _Work(bar, first=done)
        work = self._works[name]
        if work.start is None and done > work.first:
            # The first unit compiles what the others run: time is taken from its end.
            work.start = (done, time.time())
            self._live.reset(work.bar, completed=done)
        self._live.update(work.bar, completed=done, total=total, note=note, visible=done < total)
        if not self._is_live:
            self._print_line(name, done, total, note, is_new)
        if done >= total:  # the next work of this name is a task of its own
            del self._works[name]

    def _print_line(self, name: str, done: int, total: int, note: str, is_new: bool) -> None:
        now = time.time()
        if not is_new and done < total and now - self._printed_at < self._every:
            return
        first, start = self._works[name].start or (done, now)
        remaining = ""
        if first < done < total:
            seconds = (now - start) / (done - first) * (total - done)
            remaining = f", about {seconds:.0f} s left"
        line = f"{name}: {done}/{total} {note}{remaining}".rstrip()
        if line not in self._printed:  # the first steps may have no news yet
            console.print(line)
        self._printed.add(line)
        self._printed_at = now
