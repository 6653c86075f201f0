"""Five widths and four lengths of training on embedded digits: how a scaling study is made.

Hardware: 2 CPU cores. Time: 25 minutes on an Intel Xeon, a third of it compilation. Then
python -m experiments.scaling --workdir runs/scaling_demo, in seconds.
Expect: losses that fall with size and length, a law and parabolas through them, and numbers that
are refused. It only shows how such a study works, and allows no conclusions: 480 images are seen up
to 27 times, losses are of 100 unseen images, and all sizes have one seed and one learning rate.
"""

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "scaling_demo"
    # As many groups at every width; 4 times as many FLOP at the largest as at the smallest.
    config.models = ConfigDict({"2": {"row": "2", "norm_num_groups": 2, "attention_head_dim": 4}})
    config.axes.width = (0.25, 0.3125, 0.375, 0.4375, 0.5)
    config.axes.train_steps = (50, 100, 200, 400)
    config.data.n = (480,)
    config.data.proportions = ((0.5, 0.5),)
    config.data.alternate = False
    config.diffusion.prediction = "v"
    config.train.schedule = "wsd"
    config.train.warmup_steps = 20
    config.train.checkpoint_every = 40  # divides where each cooldown begins
    config.train.keep_last = 1
    config.sample.num = 64
    config.sample.common = 0
    config.sample.steps = 20
    config.classifier.steps = 200
    config.measures.held_out = 100  # all that there are of two digits
    config.measures.lpips = "none"
    config.measures.spaces = ("pixels",)
    config.measures.checkpoints = 0
    config.measures.queries = 0
    config.measures.probe = 0
    return config
