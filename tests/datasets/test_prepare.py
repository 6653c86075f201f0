import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff import files
from jaxdiff.datasets.base import Columns, Source
from jaxdiff.datasets.prepare import MANIFEST, open_prepared, prepare, verify
from jaxdiff.datasets.registry import raw
from tests.datasets import published

PREPARE = """
import sys, time
from jaxdiff.datasets.prepared import prepare
from jaxdiff.datasets.sources import raw
print("ready", flush=True)
def progress(what, done, of, note):
    print(done, flush=True)
    time.sleep(60)
prepare(raw("celeba", size=64, channels=3, data_dir=sys.argv[1]), sys.argv[2], "celeba", progress)
"""


@pytest.mark.parametrize(
    "num",
    [
        pytest.param(600, id="by one process"),
        pytest.param(4200, id="by several", marks=pytest.mark.slow),
    ],
)
def test_a_killed_preparation_is_begun_again_and_equal(tmp_path, num):
    published.celeba(tmp_path / "raw", num)
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "raw"), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert process.stdout.readline() == "256\n"
        process.send_signal(signal.SIGKILL)
    (left,) = (tmp_path / "cache" / "celeba").iterdir()
    assert left.name.startswith(".")
    source = raw("celeba", size=64, channels=3, data_dir=str(tmp_path / "raw"))
    again, whole = (prepare(source, tmp_path / name, "celeba") for name in ("cache", "other"))
    assert [path.name for path in (tmp_path / "cache" / "celeba").iterdir()] == [again.folder.name]
    assert files.read_json(again.folder / MANIFEST) == files.read_json(whole.folder / MANIFEST)
    verify(again)


def test_it_is_prepared_once(tmp_path):
    first = prepare(toy(), tmp_path, "toy")
    made = (first.folder / MANIFEST).stat().mtime
    time.sleep(0.01)
    second = prepare(toy(), tmp_path, "toy")
    assert (second.folder / MANIFEST).stat().mtime == made
    np.testing.assert_array_equal(second.read(np.array([2, 0])), [first[2], first[0]])
    assert second.about == "five squares"
    assert prepare(toy(size=4), tmp_path, "toy").folder != first.folder


def test_damage_is_named(tmp_path):
    made = prepare(toy(), tmp_path, "toy")
    records = next(made.folder.glob("*.array_record-*"))
    data = bytearray(records.read_bytes())
    data[len(data) // 2] ^= 1
    records.write_bytes(bytes(data))
    with pytest.raises(
        ValueError, match=r"array_record-00000-of-00001 is damaged \(SHA-256 differs\); remove"
    ):
        verify(made)
    records.write_bytes(bytes(data[:-1]))
    with pytest.raises(
        ValueError, match="array_record-00000-of-00001 is missing or cut short; remove"
    ):
        open_prepared(made.folder)


def test_a_broken_image_in_another_process_is_named(tmp_path):
    published.celeba(tmp_path / "raw", 4200)
    (tmp_path / "raw" / "img_align_celeba" / "003000.jpg").write_bytes(b"no image")
    source = raw("celeba", size=16, channels=3, data_dir=str(tmp_path / "raw"))
    with pytest.raises(ValueError, match=r"img_align_celeba/003000.jpg cannot be read as an image"):
        prepare(source, tmp_path / "cache", "celeba")
    assert not any((tmp_path / "cache" / "celeba").iterdir())


def toy(size=3):
    columns = Columns(np.arange(5) % 2, ("even", "odd"))

    def decode(i):
        return np.full((size, size, 1), i, np.uint8)

    return Source("five squares", {"size": size}, 5, lambda: columns, decode)
