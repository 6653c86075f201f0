"""The tiny study with a mid-block, and so with attention."""

from ml_collections import ConfigDict

from tests.experiments import tiny_study


def get_config() -> ConfigDict:
    config = tiny_study.get_config()
    config.models["1"].mid_block = True
    return config
