"""Decode functions that other processes can import, without JAX."""

import os
import pathlib
import sys
import time

import numpy as np


def decode_square(index):
    return np.full((3, 3, 1), index % 256, np.uint8)


def decode_loaded_modules(index):
    """Whether JAX and TFDS are imported; 0 and 0 in a worker."""
    loaded = [name in sys.modules for name in ("jax", "tensorflow_datasets")]
    return np.array(loaded, np.uint8).reshape(1, 2, 1)


def decode_broken(index):
    if index == 3000:
        raise ValueError("image 3000 cannot be read")
    return decode_square(index)


def decode_and_die(parent, index):
    if os.getpid() != parent and index == 3000:
        os._exit(9)
    return decode_square(index)


def decode_slowly(folder, index):
    """Leave the process's id in a folder."""
    pathlib.Path(folder, str(os.getpid())).touch()
    time.sleep(0.05)
    return decode_square(index)
