"""Coloured digits: the stand-in for CelebA where nothing can be downloaded. A class (the digit) and an attribute (the ink).

Every digit is there twice, in red ink and in green, on its own dark background; hue, saturation and brightness vary from
image to image, so that the ink is plain to see and still has to be learnt. A mixture takes each digit once.
"""

import colorsys
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxdiff.datasets.base import Columns, Image, Source
from jaxdiff.datasets.mnist import digits

ATTRIBUTE = "green"
HUES = {False: 0.0, True: 0.33}  # of red and of green ink
JITTER = 0.1  # of the hue, to either side
# Shares of CelebA's four groups: the majority class (female) without and with the attribute (blond), the minority (male)
# likewise. The paper gives 41.68 %, 58.32 %, 0.86 % and 40.81 %; 13.94 % are blond women in CelebA's own list.
CELEBA_GROUPS = (0.4438, 0.1394, 0.4082, 0.0086)


def coloured_digits(data_dir: str | None, size: int) -> Source:
    """RGB digits; image i is digit i in red, image n + i the same digit in green."""
    grey = digits(data_dir, size, 1)
    n = len(grey)
    decode = functools.partial(_decoded, grey.decode, n)
    green = np.repeat([False, True], n)[:, None]
    columns = Columns(np.tile(grey.columns.labels, 2), grey.columns.classes, green, (ATTRIBUTE,))
    about = grey.about.replace("MNIST digits", "MNIST digits, each in red and in green ink")
    identity = grey.identity | {"inks": [HUES[False], HUES[True], JITTER]}
    return Source(about, identity, 2 * n, lambda: columns, decode, grey.shares)


def _decoded(grey: Callable[[int], Image], n: int, index: int) -> Image:
    rng = np.random.default_rng([30, index])
    ink, paper = _ink(rng, index >= n), rng.uniform(0.0, 0.25, 3)
    stroke = grey(index % n).astype(np.float64) / 255.0
    return np.round(255.0 * (paper + (ink - paper) * stroke)).astype(np.uint8)


def _ink(rng: np.random.Generator, green: bool) -> Float[np.ndarray, " 3"]:
    hue = (HUES[green] + rng.uniform(-JITTER, JITTER)) % 1.0
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.0)))
