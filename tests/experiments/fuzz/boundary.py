"""The commands in this process, through the boundary that they have as processes."""

import contextlib
import dataclasses
import functools
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import absl.logging
from absl import app, flags

from experiments import _cli

SECONDS = 30  # that an input may take, on a machine that others use too
MAX_LINES = 3  # of an error
FAULTS = ("Traceback", "this is a fault of jaxdiff")


class Accepted(BaseException):
    """Ends a command where its work would begin, and brings what it has read.

    It is no Exception, which the boundary would turn into a sentence.
    """

    def __init__(self, value: Any):
        super().__init__()
        self.value = value


class Hang(BaseException):
    """An input took longer than SECONDS."""


def accept(value: Any) -> None:
    """Stand in for the work of a command."""
    raise Accepted(value)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, what it wrote to stderr, what it read."""

    status: int
    error: str = ""
    value: Any = None


class Command:
    """A command of experiments/, whose flags are defined while it runs.

    Commands share names of flags, and a process has one set of them.
    """

    def __init__(self, name: str):
        app.define_help_flags()
        defined = set(flags.FLAGS)
        self.module = importlib.import_module(f"experiments.{name}")
        self.name = name
        self._flags = {name: flags.FLAGS[name] for name in set(flags.FLAGS) - defined}
        _remove_flags(defined)

    def run(self, *arguments: object) -> Outcome:
        """Run the command with these arguments, as its process would."""
        argv = [self.name, *map(str, arguments)]
        defined = set(flags.FLAGS)
        for name, flag in self._flags.items():
            flag.unparse()
            flags.FLAGS[name] = flag
        stderr = io.StringIO()
        try:
            with _restored_process(argv), contextlib.redirect_stderr(stderr), _time_limit():
                _cli.run(self.module.main, self.module.__doc__ or "")
        except SystemExit as end:
            return Outcome(end.code if isinstance(end.code, int) else 0, stderr.getvalue())
        except Accepted as end:
            return Outcome(0, stderr.getvalue(), end.value)
        except Hang:
            return Outcome(-1, f"no end after {SECONDS} s")
        finally:
            _remove_flags(defined)
        raise AssertionError("a command ends by SystemExit")


@functools.cache
def load_command(name: str) -> Command:
    """A command, whose module is imported once a process."""
    return Command(name)


def _remove_flags(defined: set[str]) -> None:
    for name in set(flags.FLAGS) - defined:
        delattr(flags.FLAGS, name)


@contextlib.contextmanager
def _restored_process(argv: list[str]) -> Iterator[None]:
    """Undo what a command changes of its process, which otherwise ends with it."""
    logger = logging.getLogger("jaxdiff")
    propagate = logger.propagate
    loggers = (logging.getLogger(), logger)
    states = [(log.level, list(log.handlers)) for log in loggers]
    verbosity = absl.logging.get_verbosity()
    main_doc = sys.modules["__main__"].__doc__
    old_argv = sys.argv
    terminate = signal.getsignal(signal.SIGTERM)
    sys.argv = argv
    try:
        with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
            yield
    finally:
        sys.argv = old_argv
        sys.modules["__main__"].__doc__ = main_doc
        signal.signal(signal.SIGTERM, terminate)
        absl.logging.set_verbosity(verbosity)
        for log, (level, handlers) in zip(loggers, states, strict=True):
            log.setLevel(level)
            log.handlers[:] = handlers
        logger.propagate = propagate


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclasses.dataclass(frozen=True)
class Input:
    """One input, and what has to come of it.

    Parameters
    ----------
    name
        What failures call it.
    run
        Gives the input to a command.
    is_right
        Whether an accepted value is what the input says; None where the input must be refused.
    may_be_refused
        Whether it may be refused too: random damage need not change what a file says.
    names
        What the sentence of a refusal must have one of: the key, the value, the file.
    """

    name: str
    run: Callable[[], Outcome]
    is_right: Callable[[Any], bool] | None = None
    may_be_refused: bool = False
    names: tuple[str, ...] = ("",)

    def find_fault(self) -> str:
        """What is wrong with the outcome, in words; empty where nothing is."""
        outcome = self.run()
        if outcome.status == 0:
            if self.is_right is not None and self.is_right(outcome.value):
                return ""
            value = " ".join(repr(outcome.value).split())
            return f"{self.name}: accepted as {value:.200}"
        sentence = outcome.error.strip()
        is_sentence = sentence.startswith("error: ") and len(sentence) > len("error: ") + 10
        has_fault = any(fault in sentence for fault in FAULTS)
        if outcome.status not in (1, 2) or not is_sentence or has_fault:
            return f"{self.name}: status {outcome.status}, {sentence}"
        if len(sentence.splitlines()) > MAX_LINES:
            return f"{self.name}: many lines, {sentence}"
        if not any(name in sentence for name in self.names):
            return f"{self.name}: without {' or '.join(self.names)}, {sentence}"
        if self.is_right is not None and not self.may_be_refused:
            return f"{self.name}: refused, {sentence}"
        return ""


def find_faults(inputs: list[Input]) -> list[str]:
    """The inputs with another outcome than has to come of them."""
    return [fault for entry in inputs if (fault := entry.find_fault())]
