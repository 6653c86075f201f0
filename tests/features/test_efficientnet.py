import pathlib

import jax
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from jaxdiff.features import efficientnet


@pytest.mark.slow
def test_it_reads_a_photograph():
    """The portrait of a naval officer that matplotlib ships: suit, ties, gown and uniform of ImageNet's thousand classes."""
    path = pathlib.Path(mpl.get_data_path()) / "sample_data/grace_hopper.jpg"
    square = (
        Image.open(path)
        .convert("RGB")
        .crop((0, 0, 512, 512))
        .resize((256, 256), Image.Resampling.BICUBIC)
    )
    picture = np.asarray(square.crop((16, 16, 240, 240)))
    logits = np.asarray(jax.jit(efficientnet.logits)(efficientnet.load(), picture[None]))[0]
    suit, bow_tie, windsor_tie, academic_gown, uniform = 834, 457, 906, 400, 652
    assert (
        len({suit, bow_tie, windsor_tie, academic_gown, uniform} & set(np.argsort(logits)[-5:]))
        >= 4
    )
