"""The smallest study that goes through every stage.

Without a mid-block, which takes most of the time of compilation; mid_block_study.py has one.
"""

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "tiny"
    config.width = 0.25
    config.models = ConfigDict(
        {
            "1": {
                "row": "2",
                "block_out_channels": (8,),
                "attention": (),
                "norm_num_groups": 8,
                "layers_per_block": 1,
                "mid_block": False,
            }
        }
    )
    config.data.n = (50,)
    config.train.steps = 40
    config.train.checkpoint_every = 10
    config.sample.num = 20
    config.sample.common = 10
    config.sample.steps = 4
    config.measures.checkpoints = 4
    config.sample.batch = 8
    config.classifier.steps = 5
    config.measures.queries = 8
    config.measures.probe = 2
    config.measures.spaces = ("pixels",)
    return config
