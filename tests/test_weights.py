import io
import pickle
import zipfile

import numpy as np
import pytest

from jaxdiff import weights
from jaxdiff.features import perceptual


def test_arrays_by_dotted_name_from_each_kind_of_file(tmp_path):
    import safetensors.numpy

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


def test_anything_but_arrays_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"x": Harmful()}))
    with pytest.raises(
        ValueError,
        match=r"code.pth .*it asks for (builtins|__builtin__).print, and only arrays are read",
    ):
        weights.read(tmp_path / "code.pth")
    assert "run" not in capsys.readouterr().out
    (tmp_path / "text.ckpt").write_bytes(pickle.dumps({"net": {"name": "x"}}))
    with pytest.raises(
        ValueError, match=r"holds a str at 'net.name' where only arrays are expected"
    ):
        weights.read(tmp_path / "text.ckpt")
    (tmp_path / "objects.ckpt").write_bytes(pickle.dumps({"x": np.array([None, 1])}))
    with pytest.raises(ValueError, match="only arrays are expected"):
        weights.read(tmp_path / "objects.ckpt")
    for data in (b"", b"no pickle", pickle.dumps({"x": np.ones(9)})[:40]):
        (tmp_path / "broken.ckpt").write_bytes(data)
        with pytest.raises(ValueError, match="is no weights file that can be read"):
            weights.read(tmp_path / "broken.ckpt")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_truncated_files_get_the_sentence(tmp_path, suffix):
    import safetensors.numpy

    if suffix == ".safetensors":
        safetensors.numpy.save_file({"x": np.ones(9)}, tmp_path / "a.safetensors")
    else:
        np.savez(tmp_path / "a.npz", x=np.ones(900))
        (tmp_path / "a.npz").rename(tmp_path / f"a{suffix}")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="is no weights file that can be read"):
        weights.read(path)


def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path):
    """A crafted file could otherwise read memory that is not its own."""
    with pytest.raises(pickle.UnpicklingError, match="leaves its storage"):
        weights._tensor(np.zeros(4, np.float32), 0, (2, 3), (3, 1))
    np.testing.assert_array_equal(
        weights._tensor(np.arange(6), 1, (2, 2), (3, 1)), [[1, 2], [4, 5]]
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/other", b"")
    (tmp_path / "a.pth").write_bytes(archive.getvalue())
    with pytest.raises(ValueError, match=r"no data.pkl"):
        weights.read(tmp_path / "a.pth")


def test_a_wrong_checksum_names_both(tmp_path):
    name, expected = perceptual.FILES["alex"]
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=rf"has the SHA-256 .*{expected[:12]}.* was expected; get the file again"
    ):
        perceptual.load("alex", tmp_path)
    with pytest.raises(ValueError, match="there is no LPIPS weights file"):
        perceptual.load("alex", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="choose one of alex, vgg"):
        perceptual.load("squeeze")
