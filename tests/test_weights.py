"""Weights files of every kind are read, and nothing in them is run."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxdiff import weights
from jaxdiff.features import perceptual


def test_arrays_by_dotted_name_from_each_kind_of_file(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "a.npz", x=array)
    safetensors.numpy.save_file({"x": array}, tmp_path / "a.safetensors")
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"net": {"x": array}}, protocol=2))
    np.testing.assert_array_equal(weights.read(tmp_path / "a.npz")["x"], array)
    np.testing.assert_array_equal(weights.read(tmp_path / "a.safetensors")["x"], array)
    np.testing.assert_array_equal(weights.read(tmp_path / "a.ckpt")["net.x"], array)


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_code_is_refused_by_name(tmp_path, capsys):
    path = tmp_path / "code.pth"
    path.write_bytes(pickle.dumps({"x": Harmful()}))
    sentence = r"code.pth .*it asks for (builtins|__builtin__).print, and only arrays are read"
    with pytest.raises(ValueError, match=sentence):
        weights.read(path)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"net": {"name": "x"}}, "must hold only arrays, got a str at 'net.name'"),
        ({"x": np.array([None, 1])}, "must hold only arrays, got a ndarray at 'x'"),
    ],
)
def test_anything_but_arrays_is_refused(tmp_path, content, sentence):
    path = tmp_path / "other.ckpt"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        weights.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        pickle.dumps({"x": np.ones(9)})[:40],
        b"\x80\x04\x8e" + (2**60).to_bytes(8, "little"),  # asks for 2^60 bytes
        b"\x80\x02X\x01\x00\x00\x00\xff.",  # a text that is no UTF-8
    ],
    ids=["empty", "text", "cut", "large", "no UTF-8"],
)
def test_a_broken_pickle_is_one_sentence(tmp_path, data):
    path = tmp_path / "broken.ckpt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot read weights from"):
        weights.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_a_truncated_file_is_one_sentence(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        safetensors.numpy.save_file({"x": np.ones(9)}, path)
    else:
        with path.open("wb") as file:
            np.savez(file, x=np.ones(900))
    path.write_bytes(path.read_bytes()[:-40])
    sentence = "whole .npz file" if suffix == ".npz" else "cannot read weights from"
    with pytest.raises(ValueError, match=sentence):
        weights.read(path)


def test_a_tensor_that_leaves_its_storage_is_refused():
    """A crafted file could otherwise read memory that is not its own."""
    with pytest.raises(pickle.UnpicklingError, match="leaves its storage"):
        weights._rebuild_tensor(np.zeros(4, np.float32), 0, (2, 3), (3, 1))
    tensor = weights._rebuild_tensor(np.arange(6), 1, (2, 2), (3, 1))
    np.testing.assert_array_equal(tensor, [[1, 2], [4, 5]])


def test_an_archive_without_a_pickle_is_refused(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/other", b"")
    path = tmp_path / "a.pth"
    path.write_bytes(archive.getvalue())
    with pytest.raises(ValueError, match=r"no data.pkl"):
        weights.read(path)


def test_a_wrong_checksum_names_both(tmp_path):
    name, expected = perceptual.FILES["alex"]
    (tmp_path / name).write_bytes(b"something else")
    sentence = rf"has the SHA-256 .*{expected[:12]}.* was expected; get the file again"
    with pytest.raises(ValueError, match=sentence):
        perceptual.load("alex", tmp_path)
    with pytest.raises(ValueError, match="there is no LPIPS weights file"):
        perceptual.load("alex", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="choose one of alex, vgg"):
        perceptual.load("squeeze")


@pytest.mark.parametrize(
    ("bad", "dtype"),
    [
        (np.nan, np.float32),
        (np.inf, np.float32),
        (-np.inf, np.float16),
        (np.nan, np.float16),
        (np.nan, ml_dtypes.bfloat16),
        (-np.inf, ml_dtypes.bfloat16),
        (1e300, np.float64),
    ],
)
@pytest.mark.parametrize("position", [0, 2, 4])
def test_weights_that_are_not_finite_are_named(tmp_path, bad, dtype, position):
    array = np.zeros(5, dtype)
    array[position] = bad
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"fine": np.ones(3, np.float32), "broken": array}, path)
    with pytest.raises(ValueError, match=r"finite float32 numbers, and broken in .*a.safetensors"):
        weights.read(path)


def test_the_largest_and_empty_arrays_are_finite(tmp_path):
    path = tmp_path / "a.npz"
    largest = np.finfo(np.float32).max
    np.savez(path, x=np.array([largest, -largest]), empty=np.zeros(0), steps=np.array(3))
    assert weights.read(path)["x"].max() == largest
