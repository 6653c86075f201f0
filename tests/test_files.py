"""A file is written whole or not at all, and an error has the name that was asked for."""

import errno
import os

import pytest
from etils import epath

from jaxdiff import files


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_an_error_names_the_file_and_leaves_nothing(code, tmp_path, monkeypatch):
    path = tmp_path / "samples.npz"
    path.write_bytes(b"old")

    def refuse(file, data):
        file.touch()
        raise OSError(code, os.strerror(code), str(file))

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", refuse)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        files.write(path, b"new")
    assert error.value.filename == str(path)
    assert error.value.errno == code
    assert [file.name for file in tmp_path.iterdir()] == ["samples.npz"]
    assert path.read_bytes() == b"old"
