"""Run a command for which gs:// is a folder: python -m tests.experiments.bucket FOLDER COMMAND ...

As in Google's buckets, objects need no folders, and opening a file for appending truncates it.
Orbax, which reaches buckets without fsspec, uses the folder directly.
"""

import os
import runpy
import sys

import fsspec
from etils import epath
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from jaxdiff import checkpoints

FOLDER = sys.argv[1]
COMMAND = sys.argv[2]


class Bucket(DirFileSystem):
    """A folder that behaves as a bucket."""

    protocol = ("gs", "gcs")

    def __init__(self, **options):
        # A cached listing would hide the files that other machines write.
        assert options.get("use_listings_cache") is False
        super().__init__(path=FOLDER, fs=LocalFileSystem(auto_mkdir=True))

    def mkdir(self, path, **options):
        pass

    def makedirs(self, path, **options):
        pass

    def open(self, path, mode="rb", **options):
        return super().open(path, mode.replace("a", "w"), **options)


def checkpoint_path(folder, step):
    """Replaces `checkpoints._path`: a step's folder on disk."""
    local_folder = os.fspath(folder).replace("gs://", f"{FOLDER}/")
    return epath.Path(local_folder) / str(step)


if __name__ == "__main__":
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, Bucket, clobber=True)
    checkpoints._path = checkpoint_path
    sys.argv = [COMMAND, *sys.argv[3:]]
    runpy.run_module(f"experiments.{COMMAND}", run_name="__main__", alter_sys=True)
