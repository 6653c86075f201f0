"""Preparation by several processes: `MIN_PARALLEL_SECONDS` 0 asks for them."""

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff import files
from jaxdiff.datasets import record_writer
from jaxdiff.datasets.base import Annotations, Source
from jaxdiff.datasets.prepare import MANIFEST, prepare
from tests.datasets import decoders

NUM = 4200

# Starts a preparation that would take minutes; it has no main guard, as a notebook has none.
PREPARE_SLOWLY = """
import functools, os, signal, sys
import numpy as np
from jaxdiff.datasets.base import Annotations, Source
from jaxdiff.datasets.prepare import prepare
from tests.datasets import decoders
# The background jobs of a shell ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.cpu_count = lambda: 2
decode = functools.partial(decoders.decode_slowly, sys.argv[2])
annotations = Annotations(np.zeros(4200, int), ("image",))
source = Source("slow", {}, 4200, lambda: annotations, decode)
try:
    prepare(source, sys.argv[1], "slow")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def make_source(decode):
    annotations = Annotations(np.zeros(NUM, int), ("image",))
    return Source("squares", {}, NUM, lambda: annotations, decode)


@pytest.fixture
def parallel(monkeypatch):
    monkeypatch.setattr(record_writer, "MIN_PARALLEL_SECONDS", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_several_processes_write_the_same(tmp_path, parallel, monkeypatch):
    reports = []
    together = prepare(
        make_source(decoders.decode_square), tmp_path, "together", lambda *r: reports.append(r)
    )
    assert reports[-1] == ("prepare together", NUM, NUM, "")
    monkeypatch.setattr(record_writer, "MIN_PARALLEL_SECONDS", 1e9)
    alone = prepare(make_source(decoders.decode_square), tmp_path / "alone", "together")
    manifest = files.read_json(together.folder / MANIFEST)
    assert files.read_json(alone.folder / MANIFEST) == manifest
    np.testing.assert_array_equal(together[4100], decoders.decode_square(4100))


def test_workers_import_neither_jax_nor_tfds(tmp_path, parallel):
    prepared = prepare(make_source(decoders.decode_loaded_modules), tmp_path, "modules")
    assert prepared[NUM - 1].ravel().tolist() == [0, 0]


def test_a_workers_error_is_its_sentence(tmp_path, parallel):
    with pytest.raises(ValueError, match="image 3000 cannot be read"):
        prepare(make_source(decoders.decode_broken), tmp_path, "broken")
    assert not any((tmp_path / "broken").iterdir())


def test_a_killed_worker_is_an_error(tmp_path, parallel):
    parent = os.getpid()
    with pytest.raises(OSError, match="ended before its work was done; try again"):
        prepare(make_source(functools.partial(decoders.decode_and_die, parent)), tmp_path, "killed")
    assert not any((tmp_path / "killed").iterdir())


def test_a_closure_is_decoded_by_this_process(tmp_path, parallel):
    pixels = np.full((2, 2, 1), 7, np.uint8)
    prepared = prepare(make_source(lambda index: pixels), tmp_path, "closure")
    np.testing.assert_array_equal(prepared[NUM - 1], pixels)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, number):
    pids = tmp_path / "pids"
    pids.mkdir()
    command = [sys.executable, "-c", PREPARE_SLOWLY, str(tmp_path / "cache"), str(pids)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list(pids.iterdir())) == 3)  # its own and two workers'
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    workers = [int(path.name) for path in pids.iterdir()]
    wait_until(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers))
    if number == signal.SIGINT:
        assert output == "interrupted\n"
        assert not any((tmp_path / "cache" / "slow").iterdir())


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
