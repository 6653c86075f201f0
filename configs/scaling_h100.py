"""Five widths of "2" and four lengths of training on CelebA at 32 px: a law in ten minutes.

Hardware: one H100. Time: 5 minutes of training at 5e13 FLOP a second (1.4e16 FLOP) and as long for
compilation, most of which a second run finds in its cache; computed and not measured. CelebA is
needed in a form that docs/data.md describes, --config.data.dir=FOLDER, and is prepared once, in
minutes.
Expect: exponents with wide intervals, over 20 points of one seed and one learning rate; the best
size at three or four budgets within a factor of 2. The longest run sees its images 3.4 times, so
the law has its parameter r of repeated images.
"""

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "scaling_h100"
    config.models = ConfigDict({"2": {"row": "2", "norm_num_groups": 8}})
    config.axes.width = (1.0, 1.25, 1.5, 1.75, 2.0)
    config.axes.train_steps = (400, 800, 1600, 3200)
    config.data.source = "celeba"
    config.data.attribute = "Male"
    config.data.classes = (0, 1)
    config.data.proportions = ((0.5, 0.5),)
    config.data.alternate = False
    config.data.n = (120_000,)
    config.data.size = 32
    config.train.flip = True
    config.train.batch = 128
    config.train.learning_rate = 5e-4
    config.train.dtype = "bfloat16"
    config.train.schedule = "wsd"
    config.train.warmup_steps = 160
    config.train.checkpoint_every = 320  # divides where each cooldown begins
    config.train.keep_last = 1
    config.sample.num = 128
    config.sample.common = 0
    config.sample.batch = 128
    config.sample.dtype = "bfloat16"
    config.measures.held_out = 512
    config.measures.lpips = "none"
    config.measures.spaces = ("pixels",)
    config.measures.checkpoints = 0
    config.measures.queries = 0
    config.measures.probe = 0
    return config
