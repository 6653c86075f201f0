"""One boundary turns every error into a sentence, and a fault of ours into a file too."""

import errno
import io
import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import _cli, _errors
from tests.experiments.commands import SMALL, fail_command

JAX_OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 B.")


def open_zip(path):
    zipfile.ZipFile(io.BytesIO(b"no zip"))


def read_pickle(path):
    raise EOFError("Ran out of input")


def inflate(path):
    zlib.decompress(b"no zlib")


def read_record(path):
    raise RuntimeError("array_record: DATA_LOSS: footer is corrupted")


def parse_nested(path):
    json.loads("[" * 100_000)


def allocate(path):
    np.zeros(10**15)


def compute_on_device(path):
    raise JAX_OUT_OF_MEMORY


def convert_number(path):
    np.int32(10**20)


def import_bucket(path):
    raise ImportError("Please install gcsfs to access Google Storage")


def import_s3(path):
    raise ImportError("Install s3fs to access S3")


def import_missing(path):
    import no_such_package  # noqa: F401


def start_backend(path):
    raise RuntimeError("Unable to initialize backend 'tpu': INTERNAL: no libtpu.so")


def fill_disk(path):
    raise OSError(errno.ENOSPC, "No space left on device", path)


def fill_disk_unnamed(path):
    raise OSError(errno.ENOSPC, "No space left on device")


def fill_record(path):
    raise RuntimeError(f"write() failed: No space left on device; writing {path}; at byte 7")


def fill_library_unnamed(path):
    raise RuntimeError("close() failed: Disk quota exceeded")


def fill_share(path):
    raise OSError(errno.EDQUOT, "Disk quota exceeded", path)


@pytest.mark.parametrize(
    ("raise_error", "sentence"),
    [
        (open_zip, "a/file.npz is damaged (File is not a zip file)"),
        (read_pickle, "a/file.npz is damaged (Ran out of input)"),
        (inflate, "a/file.npz is damaged (Error -3"),
        (read_record, "a/file.npz is damaged (array_record: DATA_LOSS"),
        (parse_nested, "a/file.npz is damaged (maximum recursion depth exceeded"),
        (allocate, "memory does not suffice (Unable to allocate"),
        (compute_on_device, "set config.train.accumulate, remat, dtype=bfloat16 or shard_params"),
        (convert_number, "a number in a/file.npz is too large"),
        (import_bucket, "pip install 'jaxdiff[cloud]'"),
        (import_s3, "pip install 'jaxdiff[cloud]'"),
        (import_missing, "the package no_such_package cannot be imported"),
        (start_backend, "unset it, or set it to cpu"),
        (fill_disk, "no space is left on the disk of a/file.npz; free some"),
        (fill_disk_unnamed, "no space is left on the disk of a/file.npz; free some"),
        (fill_record, "no space is left on the disk of a/file.npz; free some"),
        (fill_library_unnamed, "no space is left on the disk of a/file.npz; free some"),
        (fill_share, "no space is left on the disk of a/file.npz; free some"),
    ],
)
def test_an_error_that_has_a_reason(raise_error, sentence, monkeypatch):
    monkeypatch.setattr(_errors, "_report_fault", lambda error: f"a fault: {error!r}")
    with pytest.raises(Exception) as error:  # noqa: PT011
        raise_error("a/file.npz")
    described = _errors.describe(error.value)
    assert sentence in described
    assert "\n" not in described


def test_a_file_that_cannot_be_had_is_named_with_what_to_do():
    error = PermissionError(errno.EACCES, "Permission denied", "a/x.npz")
    sentence = _errors.explain_input(["sample"], error, None)
    assert sentence == (
        "a/x.npz cannot be read or written (Permission denied); correct the path or its permissions"
    )


@pytest.mark.parametrize(
    "error",
    [
        TypeError("unsupported\noperand"),
        KeyError("x"),
        AssertionError(),
        AttributeError("x"),
        RuntimeError("dictionary changed size"),
        RecursionError("maximum recursion depth exceeded"),
        ImportError("cannot import name 'x' from 'jaxdiff'", name="jaxdiff"),
        NotImplementedError(),
        ZeroDivisionError("x" * 10_000),
    ],
)
def test_any_other_is_a_fault_with_its_traceback_in_a_file(error, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(type(error)) as raised:
        raise error
    sentence = _errors.describe(raised.value)
    (path,) = tmp_path.iterdir()
    assert sentence.startswith(f"this is a fault of jaxdiff ({type(error).__name__}: ")
    assert f"please report it with {path}" in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert text.startswith(f"command: {' '.join(sys.argv)}\nversions: jaxdiff ")


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "no_such_platform"])
def test_a_platform_that_is_not_there(platforms, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    sentence = fail_command("sweep", *SMALL, "--dry_run")
    assert f"the devices that JAX_PLATFORMS={platforms},cpu asks for (" in sentence
    assert sentence.endswith("unset it, or set it to cpu")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sweep", "sample"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_flagfile_that_cannot_be_read(command, content, tmp_path):
    path = tmp_path / "flags.txt"
    if content:
        path.write_bytes(content)
    sentence = fail_command(command, f"--flagfile={path}")
    assert "--flagfile must name a text file with one flag per line" in sentence


FAULT = """
from absl import flags
from experiments import _cli
_cli.run(lambda: {}["x"], "A command with a fault.")
"""


def test_a_command_with_a_fault_ends_in_one_line(tmp_path):
    """Through the boundary that all commands have; --help of it is a success."""
    command = [sys.executable, "-W", "ignore", "-c", FAULT]
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(_cli.__file__).parents[1])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: this is a fault of jaxdiff (KeyError: 'x')")
    helped = subprocess.run([*command, "--help"], env=environment, capture_output=True, check=False)
    assert helped.returncode == 0
