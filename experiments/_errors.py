"""What is left of errors at a command's boundary: one sentence, and of faults a file too."""

import errno
import os
import platform
import re
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections.abc import Sequence
from importlib.metadata import version

from absl import flags

from experiments._help import study_settings

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
DAMAGED = (zipfile.BadZipFile, EOFError, zlib.error)
LESS_MEMORY = (
    "a smaller batch; in training set config.train.accumulate, remat, dtype=bfloat16 or "
    "shard_params"
)


class ConfigFileError(Exception):
    """A config file that cannot be used; no ValueError, which absl would put into its own words."""


def describe(error: BaseException) -> str:
    """One sentence for an error that no code of ours has put into words.

    Where its kind is not known it is a fault of jaxdiff, whose traceback is written to a file.
    """
    for explain in (
        _explain_full_disk,
        _explain_damaged_file,
        _explain_missing_package,
        _explain_memory,
        _explain_backend,
        _explain_number,
    ):
        sentence = explain(error)
        if sentence:
            return sentence
    return _report_fault(error)


def explain_input(argv: Sequence[str], error: Exception, settings_class: type | None) -> str:
    """What is wrong with the input, in one sentence; an unknown key is named with the nearest."""
    if isinstance(error, ConfigFileError):
        return str(error)
    for argument in argv:
        if argument.startswith("--config."):
            key, _, value = argument.removeprefix("--config.").partition("=")
            sentence = _explain_key(key, value, error, settings_class)
            if sentence:
                return sentence
    if isinstance(error, OSError) and error.strerror:
        if not error.filename:
            return error.strerror
        return (
            f"{error.filename} cannot be read or written ({error.strerror}); correct the path or "
            "its permissions"
        )
    message = " ".join(str(error).split())
    # A flag's value was seen above; what is left of the settings is the file's.
    key_match = re.match(r"config\.([\w.]+)", message)
    file = _find_config_file(argv)
    if key_match and file and not any(f"--config.{key_match[1]}=" in text for text in argv):
        return f"{file}: {message}"
    return message


def _find_config_file(argv: Sequence[str]) -> str | None:
    for argument in argv:
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
    if "--config" in argv[:-1]:
        return argv[list(argv).index("--config") + 1]
    return None


def _explain_key(key: str, value: str, error: Exception, settings_class: type | None) -> str:
    from jaxdiff.setting_fields import kind_name, nearest_key

    settings_class = settings_class or study_settings()
    if key.startswith("models"):
        return (
            "config.models is changed in the config file, not by a flag; --cells chooses among "
            "its models"
        )
    nearest = nearest_key(key, settings_class)
    if nearest:
        return (
            f"config.{key} does not exist; did you mean config.{nearest}? --help_config lists "
            "every key"
        )
    is_parsing = isinstance(error, flags.IllegalFlagValueError | TypeError)
    if is_parsing and f"config.{key}" in str(error):
        kind = kind_name(key, settings_class)
        return f"config.{key} cannot be {value!r}; a value of type {kind} is expected"
    return ""


def is_full_disk(error: BaseException) -> bool:
    """Whether a disk, or a user's share of one, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL_DISK
    # Libraries in C++ have the operating system's words in a message of their own.
    is_library = isinstance(error, RuntimeError)
    return is_library and any(os.strerror(code) in str(error) for code in FULL_DISK)


def _explain_full_disk(error: BaseException) -> str:
    if not is_full_disk(error):
        return ""
    name = getattr(error, "filename", None) or _file_at_hand(error)
    if not name:
        match = re.search(r"writing ([^;]+);", _message(error))  # of array_record
        name = match[1] if match else "what the command writes"
    return (
        f"no space is left on the disk of {name}; free some, or choose a folder on another disk, "
        "and run the same command again"
    )


def _explain_damaged_file(error: BaseException) -> str:
    is_record = isinstance(error, RuntimeError) and _is_raised_in(error, "array_record")
    if not is_record and not isinstance(error, (*DAMAGED, RecursionError)):
        return ""
    name = _file_at_hand(error)
    if isinstance(error, RecursionError) and not name:
        return ""
    return f"{name or 'a file'} is damaged ({_message(error)}); write, copy or download it again"


def _explain_missing_package(error: BaseException) -> str:
    if not isinstance(error, ImportError):
        return ""
    message = _message(error)
    if "gcsfs" in message or "s3fs" in message:
        return f"a bucket needs one package more ({message}); run pip install 'jaxdiff[cloud]'"
    name = error.name or ""
    if not name or name.partition(".")[0] in ("jaxdiff", "experiments"):
        return ""
    return f"the package {name} cannot be imported ({message}); install it, or reinstall jaxdiff"


def _explain_memory(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        detail = _message(error) or "no more can be had"
        return f"memory does not suffice ({detail}); take fewer or smaller images, or {LESS_MEMORY}"
    message = _message(error)
    is_jax = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in message
    if not is_jax:
        return ""
    return f"the device's memory does not suffice ({_shorten(message)}); take {LESS_MEMORY}"


def _explain_backend(error: BaseException) -> str:
    message = _message(error)
    frames = _frames(error)
    # Without the package of a platform JAX only finds that it has no backend.
    is_assertion = isinstance(error, AssertionError) and bool(frames)
    has_none = is_assertion and os.path.basename(frames[-1].filename) == "xla_bridge.py"
    is_refused = isinstance(error, RuntimeError) and "nable to initialize backend" in message
    if not has_none and not is_refused:
        return ""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    reason = _shorten(message) or "no package for them is installed"
    return (
        f"JAX cannot have the devices that JAX_PLATFORMS={platforms} asks for ({reason}); unset "
        "it, or set it to cpu"
    )


def _explain_number(error: BaseException) -> str:
    if not isinstance(error, OverflowError):
        return ""
    name = _file_at_hand(error)
    place = f" in {name}" if name else ""
    return f"a number{place} is too large ({_message(error)}); choose a smaller one"


def _report_fault(error: BaseException) -> str:
    kind = f"{type(error).__name__}: {_shorten(_message(error))}"
    path = _write_traceback(error)
    return (
        f"this is a fault of jaxdiff ({kind}); please report it with {path}, which has the "
        "traceback, the command and the versions"
    )


def _write_traceback(error: BaseException) -> str:
    """Write what a report needs to a file; its path."""
    lines = [
        f"command: {' '.join(sys.argv)}",
        f"versions: jaxdiff {_version('jaxdiff')}, jax {_version('jax')}, "
        f"Python {platform.python_version()}, {platform.platform()}",
        "",
        *traceback.format_exception(error),
    ]
    with tempfile.NamedTemporaryFile(
        "w", prefix="jaxdiff-fault-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("\n".join(lines))
    return file.name


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # a checkout that is not installed
        return "unknown"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def _is_raised_in(error: BaseException, package: str) -> bool:
    """Whether the innermost frames are a package's, or the message names it."""
    named = any(f"{os.sep}{package}{os.sep}" in frame.filename for frame in _frames(error)[-3:])
    return named or package in _message(error)


def _file_at_hand(error: BaseException) -> str:
    """The innermost `path` that a function of the traceback was called with."""
    step = error.__traceback__
    name = ""
    while step is not None:
        path = step.tb_frame.f_locals.get("path")
        name = str(path) if isinstance(path, str | os.PathLike) else name
        step = step.tb_next
    return name


def _message(error: BaseException) -> str:
    return " ".join(str(error).split())


def _shorten(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else text[:longest] + "..."
