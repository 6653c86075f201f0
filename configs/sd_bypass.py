"""Stable Diffusion 1.x with its mid-block bypassed, and the paper's prompts (Figures 2B, 6 and C).

Hardware: a GPU or TPU with 16 GB (computed; never run on one). Time: 5 prompts x 4 seeds x 17 points (4 fractions in 3 forms, 5
guidance scales) are 340 pictures of 50 steps, 1.7 TFLOP each: 29 PFLOP, five minutes at 100 TFLOP/s and twenty at 25. On a CPU, about a quarter of
an hour a picture, and every device there holds the weights (3.4 GB): --config.batch=1 takes one.
Expect: pictures of different prompts that are more alike the more is bypassed; whether that is more than what less guidance does
is what the control says.
Trained cells take the fractions, the forms and the window alone.
"""

from ml_collections import ConfigDict

from jaxdiff.bypass.config import TABLE
from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config(TABLE)
    config.prompts = ("a woman", "a girl", "an actress", "an actor", "a queen")
    return config
