"""Does depth 6 draw fewer of the minority than depth 2? The study of docs/study_plan.md.

Hardware: 2 CPU cores. Time: about six hours; if it is killed, the same command resumes it.
Full MNIST is needed, as its four idx files or mnist.pkl.gz: --config.data.dir=FOLDER.
configs/study.py:pilot-NAME is the pilot of one of VARIANTS, about an hour. Only its quality gate is
read; it has chosen how the networks of the study are parametrized.
Expect: docs/study_plan.md has the power of the claims; nothing is known of their outcome.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


class Variant(NamedTuple):
    """How the networks are parametrized and how long they are trained.

    At a quarter width Table A has 8 groups.
    """

    prediction: str
    groups: int
    steps: int = 2000
    num_seeds: int = 12


# In the order in which they are tried; the last one is taken where none passes.
VARIANTS = {
    "eps": Variant("eps", 8),
    "eps-4groups": Variant("eps", 4),
    "v": Variant("v", 8),
    "v-long": Variant("v", 8, steps=4000, num_seeds=6),
}
CHOSEN = "v-long"  # by the pilot, which no other variant passed


def get_config(pilot: str = "") -> ConfigDict:
    """The study, or the pilot of a variant."""
    name = pilot.removeprefix("pilot-") if pilot else CHOSEN
    if name not in VARIANTS:
        raise ValueError(f"{name!r} is no variant; choose one of {', '.join(VARIANTS)}")
    return pilot_config(name) if pilot else study_config(VARIANTS[name])


def study_config(variant: Variant) -> ConfigDict:
    config = _common_config(variant)
    config.name = "study"
    config.seeds = tuple(range(variant.num_seeds))
    config.look = 6 if variant.num_seeds == 12 else 0
    # Depth at matched size, over half of the seeds: 69,129 and 64,193 parameters.
    half = tuple(range(6))
    limits = {"6-slim": half}
    config.models["6-slim"] = {"row": "6", "block_out_channels": (8,) * 6, "norm_num_groups": 4}
    shallow = "2"
    if variant.groups != 4:
        shallow = "2-4groups"
        config.models[shallow] = {"row": "2", "norm_num_groups": 4}
        limits[shallow] = half
    config.model_seeds = limits
    config.secondary = ((shallow, "6-slim"), "equal_loss", "training_time", "lpips")
    return config


def pilot_config(name: str) -> ConfigDict:
    config = _common_config(VARIANTS[name])
    config.name = f"study_pilot-{name}"
    config.seeds = (100, 101)
    config.sample.num = 256
    config.sample.common = 0
    config.measures.lpips = "none"
    config.measures.spaces = ("pixels",)
    config.measures.checkpoints = 0
    config.measures.queries = 0
    config.measures.probe = 0
    return config


def _common_config(variant: Variant) -> ConfigDict:
    config = default_config()
    config.width = 0.25
    config.models = ConfigDict(
        {row: {"row": row, "norm_num_groups": variant.groups} for row in ("2", "6")}
    )
    config.primary = ("2", "6")
    config.data.size = 32
    config.data.n = (1000,)
    config.data.parts = 6  # of 800 images of a digit, as many as MNIST has
    config.diffusion.prediction = variant.prediction
    config.train.steps = variant.steps
    config.train.checkpoint_every = 125
    config.train.keep_last = 1
    config.train.keep_log_spaced = True
    config.sample.num = 1000
    config.measures.checkpoints = 256
    config.measures.queries = 32
    return config
