"""Finished cells without files."""

import numpy as np

from jaxdiff.denoiser import config_to_json
from jaxdiff.results import CellInfo, CellResult
from jaxdiff.unet import TABLE_A


def build_result(
    model, seed, common_labels=(), labels=(), parts=5, majority=6, config=None, prediction="eps"
):
    """A finished cell of Table A whose samples have these classes."""
    name = f"{model}-s{seed}"
    info = CellInfo(
        name=name,
        model=model,
        depth=int(model),
        parameters=1,
        seed=seed,
        n=300,
        proportions=(0.8, 0.2),
        majority=majority,
        minority=15 - majority,
        prediction=prediction,
    )
    network = config_to_json(TABLE_A[model])
    return CellResult(
        name=name,
        info=info,
        sections={},
        descriptions={},
        run={},
        samples=draw_images(labels),
        labels=np.array(labels, int),
        nearest=draw_images([])[:, None],
        common=draw_images(common_labels),
        common_labels=np.array(common_labels, int),
        config=config or {"data": {"parts": parts}, "unet": network},
    )


def draw_images(labels):
    """An image for each label, in a gray of its own."""
    gray = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)
    return np.tile(gray, (1, 8, 8, 1))
