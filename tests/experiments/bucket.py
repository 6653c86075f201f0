"""`python -m tests.experiments.bucket FOLDER COMMAND ...`: a command for which gs:// is a folder of this machine.

As in Google's buckets objects need no folders, and a file that is opened to be appended to is begun anew. Orbax, which reaches
buckets by itself, is given the folder.
"""

import os
import runpy
import sys

import fsspec
from etils import epath
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from jaxdiff import checkpoints

FOLDER, COMMAND = sys.argv[1:3]


class Bucket(DirFileSystem):
    protocol = ("gs", "gcs")

    def __init__(self, **options):
        assert options.get("use_listings_cache") is False, (
            "what other machines write would not be seen"
        )
        super().__init__(path=FOLDER, fs=LocalFileSystem(auto_mkdir=True))

    def mkdir(self, path, **options):
        pass

    def makedirs(self, path, **options):
        pass

    def open(self, path, mode="rb", **options):
        return super().open(path, mode.replace("a", "w"), **options)


if __name__ == "__main__":
    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
    checkpoints._path = lambda folder, step: (
        epath.Path(os.fspath(folder).replace("gs://", f"{FOLDER}/")) / str(step)
    )
    sys.argv = [COMMAND, *sys.argv[3:]]
    runpy.run_module(f"experiments.{COMMAND}", run_name="__main__", alter_sys=True)
