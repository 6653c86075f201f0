"""Colored digits: a stand-in for CelebA where nothing can be downloaded.

A class (the digit) and an attribute (the ink). Every digit is there twice, in red ink and in green,
on its own dark background; hue, saturation and brightness vary from image to image, so that the ink
is plain to see and still has to be learned. A mixture takes each digit once.
"""

import colorsys
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxdiff.datasets.base import Annotations, DatasetRequest, Image, Source, register_dataset
from jaxdiff.datasets.mnist import open_digits

ATTRIBUTE = "green"
RED_HUE = 0.0
GREEN_HUE = 0.33
HUE_JITTER = 0.1  # to either side
# Shares of CelebA's four groups: the majority class (female) without and with the attribute
# (blond), the minority (male) likewise. The paper gives 41.68 %, 58.32 %, 0.86 % and 40.81 %;
# 13.94 % are blond women in CelebA's own list.
CELEBA_GROUPS = (0.4438, 0.1394, 0.4082, 0.0086)


@register_dataset(
    "colored_digits", channels=3, size=32, aliases=("coloured_digits",), default_group=ATTRIBUTE
)
def open_colored_digits(request: DatasetRequest) -> Source:
    """RGB digits; image i is digit i in red, image n + i the same digit in green.

    Raises
    ------
    ValueError
        Where other than 3 channels are asked for.
    """
    if request.channels != 3:
        raise ValueError(f"colored digits have 3 channels, got {request.channels}; use 3")
    gray = open_digits(DatasetRequest(request.size, 1, request.data_dir))
    n = len(gray)
    annotations = Annotations(
        labels=np.tile(gray.annotations.labels, 2),
        classes=gray.annotations.classes,
        attributes=np.repeat([False, True], n)[:, None],
        attribute_names=(ATTRIBUTE,),
    )
    return Source(
        about=gray.about.replace("MNIST digits", "MNIST digits, each in red and in green ink"),
        identity={**gray.identity, "inks": [RED_HUE, GREEN_HUE, HUE_JITTER]},
        length=2 * n,
        read_annotations=lambda: annotations,
        decode=functools.partial(_decode, gray.decode, n),
        pool_shares=gray.pool_shares,
        paired_offset=n,
    )


def _decode(decode_gray: Callable[[int], Image], n: int, index: int) -> Image:
    # seeded by the index, so that any process draws the same image
    rng = np.random.default_rng([30, index])
    ink = _random_ink(rng, GREEN_HUE if index >= n else RED_HUE)
    paper = rng.uniform(0.0, 0.25, 3)
    stroke = decode_gray(index % n).astype(np.float64) / 255.0
    return np.round(255.0 * (paper + (ink - paper) * stroke)).astype(np.uint8)


def _random_ink(rng: np.random.Generator, mean_hue: float) -> Float[np.ndarray, " 3"]:
    hue = (mean_hue + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 1.0
    saturation = rng.uniform(0.5, 1.0)
    value = rng.uniform(0.6, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))
