"""Stable Diffusion 1.x with its mid-block bypassed, on the paper's prompts.

The paper shows it in Figures 2B, 6 and C. Trained cells use only the settings whose help does not
name Stable Diffusion.

Hardware: a GPU or TPU with 16 GB (computed; never run on one). On a CPU every device holds the
weights (3.4 GB), and --config.batch=1 uses a single device.
Time: 5 prompts x 4 seeds x 17 points (4 fractions in 3 forms, 5 guidance scales) are 340 images of
50 steps at 1.7 TFLOP each: 29 PFLOP, five minutes at 100 TFLOP/s and twenty at 25 TFLOP/s. A CPU
needs about a quarter of an hour per image.
Expect: images of different prompts that become more alike as the bypassed fraction grows. Whether
the effect is larger than that of less guidance is what the control measures.
"""

from ml_collections import ConfigDict

from jaxdiff.bypass.config import BypassSettings
from jaxdiff.setting_fields import default_config


def get_config() -> ConfigDict:
    config = default_config(BypassSettings)
    config.prompts = ("a woman", "a girl", "an actress", "an actor", "a queen")
    return config
