import pathlib

import jax
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from jaxdiff.features import efficientnet

# Of ImageNet's thousand classes: suit, bow tie, Windsor tie, academic gown, military uniform.
EXPECTED = {834, 457, 906, 400, 652}


def compute_logits(params, images):
    """ImageNet's thousand classes, by the file's own last layer."""
    features = efficientnet.features(params, images)
    return features @ params["fc.kernel"] + params["fc.bias"][None]


@pytest.mark.slow
def test_it_reads_a_photograph():
    """The portrait of a naval officer that matplotlib ships: suit, ties, gown and uniform."""
    path = pathlib.Path(mpl.get_data_path()) / "sample_data/grace_hopper.jpg"
    square = Image.open(path, formats=["JPEG"]).convert("RGB").crop((0, 0, 512, 512))
    resized = square.resize((256, 256), Image.Resampling.BICUBIC)
    image = np.asarray(resized.crop((16, 16, 240, 240)))
    logits = np.asarray(jax.jit(compute_logits)(efficientnet.load(), image[None]))[0]
    top_five = set(np.argsort(logits)[-5:].tolist())
    assert len(EXPECTED & top_five) >= 4
