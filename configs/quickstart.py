"""Two depths on real, imbalanced digits: a complete study in minutes on a laptop.

Hardware: 2 CPU cores. Time: 4 to 7 minutes; two fifths of it are compilation.
Expect: recognizable 6s and 9s, and at both depths a quality gate of at least .7. The minority's
share is .2 in training; at both depths it is about .14 of all samples, and about .1 of those that
the classifier can read. One seed cannot order the depths.
"""

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "quickstart"
    config.models = ConfigDict({"2": "2", "4": "4"})
    config.width = 0.25
    config.diffusion.prediction = "v"
    config.sample.common = 64
    config.classifier.steps = 1500
    config.measures.queries = 32
    return config
