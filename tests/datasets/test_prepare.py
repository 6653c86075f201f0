import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, Source
from jaxdiff.datasets.prepare import MANIFEST, check_prepared, open_prepared, prepare, verify
from jaxdiff.datasets.registry import open_source
from tests.datasets import published

# Prepares a folder of faces until it first reports how many are written, then waits.
PREPARE = """
import sys, time
from jaxdiff.datasets import record_writer
from jaxdiff.datasets.prepare import prepare
from jaxdiff.datasets.registry import open_source
record_writer.MIN_PARALLEL_SECONDS = float(sys.argv[3])
print("ready", flush=True)
def progress(task, done, total, note):
    if done:
        print(done, flush=True)
        time.sleep(60)
source = open_source("celeba", size=64, channels=3, data_dir=sys.argv[1])
prepare(source, sys.argv[2], "celeba", progress)
"""


def open_celeba(folder, size=64):
    return open_source("celeba", size=size, channels=3, data_dir=str(folder))


def open_squares(size=3):
    annotations = Annotations(np.arange(5) % 2, ("even", "odd"))

    def decode(index):
        return np.full((size, size, 1), index, np.uint8)

    return Source("five squares", {"size": size}, 5, lambda: annotations, decode)


@pytest.mark.parametrize(
    ("num", "min_parallel_seconds"),
    [
        pytest.param(600, 1e9, id="by one process"),
        pytest.param(4200, 0.0, id="by several", marks=pytest.mark.slow),
    ],
)
def test_a_killed_preparation_is_repeated(tmp_path, num, min_parallel_seconds):
    published.celeba(tmp_path / "raw", num)
    arguments = [str(tmp_path / "raw"), str(tmp_path / "cache"), str(min_parallel_seconds)]
    command = [sys.executable, "-c", PREPARE, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert 0 < int(process.stdout.readline()) < num
        process.send_signal(signal.SIGKILL)
    (unfinished,) = (tmp_path / "cache" / "celeba").iterdir()
    assert unfinished.name.startswith(".")
    repeated = prepare(open_celeba(tmp_path / "raw"), tmp_path / "cache", "celeba")
    folders = list((tmp_path / "cache" / "celeba").iterdir())
    assert [folder.name for folder in folders] == [repeated.folder.name]
    unbroken = prepare(open_celeba(tmp_path / "raw"), tmp_path / "other", "celeba")
    assert files.read_json(repeated.folder / MANIFEST) == files.read_json(
        unbroken.folder / MANIFEST
    )
    verify(repeated)


def test_it_is_prepared_once(tmp_path):
    first = prepare(open_squares(), tmp_path, "squares")
    written = os.stat(first.folder / MANIFEST).st_ino
    second = prepare(open_squares(), tmp_path, "squares")
    assert os.stat(second.folder / MANIFEST).st_ino == written
    np.testing.assert_array_equal(second.read(np.array([2, 0])), [first[2], first[0]])
    assert second.about == "five squares"
    assert prepare(open_squares(size=4), tmp_path, "squares").folder != first.folder


@pytest.mark.parametrize(
    ("host", "process", "age", "stays"),
    [
        ("another", 1, 7200, False),
        ("another", 1, 60, True),
        ("another.local", 1, 60, True),
        (socket.gethostname(), 2**22 + 1, 60, False),  # more than there are processes
        (socket.gethostname(), os.getpid(), 60, True),  # a container's, which has the same number
    ],
    ids=["old", "new", "another name", "ended", "same number"],
)
def test_what_others_write_stays_and_what_they_left_goes(tmp_path, host, process, age, stays):
    folder = prepare(open_squares(), tmp_path, "squares").folder
    shutil.rmtree(folder)
    unfinished = folder.parent / f".{folder.name}.{host}.{process}.0a1b2c3d"
    unfinished.mkdir()
    (unfinished / "records").write_text("half")
    for path in (unfinished / "records", unfinished):
        os.utime(path, (time.time() - age,) * 2)
    prepare(open_squares(), tmp_path, "squares")
    assert unfinished.exists() == stays


def test_a_cache_in_a_bucket_is_refused():
    with pytest.raises(ValueError, match="is prepared on a disk, and gs://bucket/cache is in a"):
        prepare(open_squares(), "gs://bucket/cache", "squares")


def test_an_owner_without_a_name_can_read(tmp_path, monkeypatch):
    def find_nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", find_nobody)
    assert len(prepare(open_squares(), tmp_path, "squares")) == 5


def test_damage_is_named(tmp_path):
    prepared = prepare(open_squares(), tmp_path, "squares")
    records = next(prepared.folder.glob("*.array_record-*"))
    data = bytearray(records.read_bytes())
    data[len(data) // 2] ^= 1
    records.write_bytes(bytes(data))
    message = r"array_record-00000-of-00001 is damaged \(SHA-256 differs\); remove"
    with pytest.raises(ValueError, match=message):
        verify(prepared)
    records.write_bytes(bytes(data[:-1]))
    message = "array_record-00000-of-00001 is missing or cut short; remove"
    with pytest.raises(ValueError, match=message):
        open_prepared(prepared.folder)


NAMES = (
    "about.json",
    "checksums.json",
    "columns.npz",
    "dataset_info.json",
    "features.json",
    "squares-images.array_record-00000-of-00001",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_found_before_an_image_is_read(tmp_path, name, where):
    folder = prepare(open_squares(), tmp_path, "squares").folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    data = bytearray((folder / name).read_bytes())
    data[int(where * len(data))] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"remove {folder}, and it is prepared again"):
        prepare(open_squares(), tmp_path, "squares").read(np.array([0]))


@pytest.mark.parametrize("name", NAMES)
def test_a_prepared_dataset_is_checked_where_nothing_reads_it(tmp_path, name):
    """A dataset that is not prepared is left so."""
    check_prepared(open_squares(), tmp_path, "squares")
    assert not any(tmp_path.iterdir())
    folder = prepare(open_squares(), tmp_path, "squares").folder
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(ValueError, match=rf"remove {folder}, and it is prepared again"):
        check_prepared(open_squares(), tmp_path, "squares")
    (folder / name).write_bytes(data)
    check_prepared(open_squares(), tmp_path, "squares")


@pytest.mark.parametrize("take", [prepare, check_prepared])
def test_a_dataset_without_its_checksums_is_refused(tmp_path, take):
    """It may be half a copy, so it is neither taken nor replaced."""
    folder = prepare(open_squares(), tmp_path, "squares").folder
    (folder / MANIFEST).unlink()
    before = sorted(folder.iterdir())
    sentence = rf"{folder / MANIFEST} is missing; remove {folder}, and it is prepared again"
    with pytest.raises(ValueError, match=sentence):
        take(open_squares(), tmp_path, "squares")
    assert sorted(folder.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    shutil.rmtree(folder)
    assert prepare(open_squares(), tmp_path, "squares").folder == folder


@pytest.mark.parametrize("name", [name for name in NAMES if name != MANIFEST])
def test_a_missing_file_is_found(tmp_path, name):
    folder = prepare(open_squares(), tmp_path, "squares").folder
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing, or checksums.json does not list it"):
        open_prepared(folder)
    (folder / name).touch()
    (folder / "stray").touch()
    with pytest.raises(ValueError, match=r"stray is missing, or checksums.json does not list it"):
        open_prepared(folder)
