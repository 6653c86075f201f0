"""Does depth 6 draw fewer of the minority than depth 2? The study of docs/study_plan.md.

Hardware: 2 CPU cores, about ten hours; killed and begun again by the same command, it goes on.
Full MNIST is needed, as its four idx files or mnist.pkl.gz: --config.data.dir=FOLDER.
configs/study.py:pilot-ARM is the pilot of one of ARMS, about an hour, of which the quality gate
alone is read; it chooses how the networks of the study are parametrized.
Expect: docs/study_plan.md has the power of the claims; nothing is known of their outcome.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


class Arm(NamedTuple):
    """What the networks predict, and their number of groups."""

    prediction: str
    groups: int


# In the order in which they are tried. At a quarter width Table A has 8 groups.
ARMS = {"eps": Arm("eps", 8), "eps-4groups": Arm("eps", 4), "v": Arm("v", 8)}
CHOSEN_ARM = ""  # by the pilot


def get_config(pilot: str = "") -> ConfigDict:
    if pilot:
        return _pilot_config(pilot)
    arm = ARMS[CHOSEN_ARM]
    config = _common_config(arm)
    config.name = "study"
    config.seeds = tuple(range(12))
    config.look = 6
    # Depth at matched size, over half of the seeds: 69,129 and 64,193 parameters.
    config.models["6-slim"] = {
        "row": "6",
        "block_out_channels": (8,) * 6,
        "norm_num_groups": 4,
    }
    config.models["2-4groups"] = {"row": "2", "norm_num_groups": 4}
    config.model_seeds = {"6-slim": tuple(range(6)), "2-4groups": tuple(range(6))}
    config.secondary = (("2-4groups", "6-slim"), "equal_loss", "training_time", "lpips")
    return config


def _pilot_config(pilot: str) -> ConfigDict:
    config = _common_config(ARMS[pilot.removeprefix("pilot-")])
    config.name = f"study_{pilot}"
    config.seeds = (100, 101)
    config.sample.num = 256
    config.sample.common = 0
    config.measures.lpips = "none"
    config.measures.spaces = ("pixels",)
    config.measures.checkpoints = 0
    config.measures.queries = 0
    config.measures.probe = 0
    return config


def _common_config(arm: Arm) -> ConfigDict:
    config = default_config()
    config.width = 0.25
    config.models = ConfigDict(
        {row: {"row": row, "norm_num_groups": arm.groups} for row in ("2", "6")}
    )
    config.primary = ("2", "6")
    config.data.size = 32
    config.data.n = (1000,)
    config.data.parts = 6  # of 800 images of a digit, as many as MNIST has
    config.diffusion.prediction = arm.prediction
    config.train.steps = 2000
    config.train.checkpoint_every = 125
    config.train.keep_last = 1
    config.train.keep_log_spaced = True
    config.sample.num = 1000
    config.measures.checkpoints = 256
    config.measures.queries = 32
    return config
