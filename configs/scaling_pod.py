"""How size, length and depth change the loss on CelebA at 32 px, with three seeds.

Hardware: a slice of v5e-16, whose chips share each batch (launch/tpu_vm.sh, with DATA= for CelebA).
Time: about a day: 2.6e19 FLOP are 11 hours at a fifth of the peak, narrow models wait for memory,
and each of the 324 cells is compiled; computed and not measured, so ask experiments.plan first.
CelebA is needed in a form that docs/data.md describes: --config.data.dir=FOLDER. Two more studies
go with it:

configs/scaling_pod.py:rates has the shortest length at half and twice the learning rate. If both
are fitted together (--workdir runs/scaling_pod --workdir runs/scaling_pod_rates), the fit takes the
best rate of each size there. If it is not the study's rate, run the study again with it.
configs/scaling_pod.py:memorization has few training images, and measures samples along training.
Its models memorize images, which no law of the loss describes: fit it alone, for the times.

Expect: nothing is known of the outcome. Depths are compared at equal FLOP and not at equal
parameters, of which "6" has 27 times as many as "2".
"""

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config

WIDTHS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
LENGTHS = tuple(400 * 2**i for i in range(6))
RATE = 4e-4


def get_config(part: str = "") -> ConfigDict:
    """The study, or one of the two that go with it."""
    config = _common_config()
    config.name = f"scaling_pod_{part}" if part else "scaling_pod"
    if part == "rates":
        config.seeds = (0,)
        config.axes.train_steps = LENGTHS[:1]
        config.axes.learning_rate = (RATE / 2, 2 * RATE)
    elif part == "memorization":
        config.axes.width = (2.0, 4.0)
        config.axes.train_steps = LENGTHS[-1:]
        config.data.n = (1_000, 3_000, 10_000, 30_000)
        config.train.keep_log_spaced = True
        config.measures.checkpoints = 256
    elif part:
        raise ValueError(f"{part!r} is no part; choose rates or memorization, or give none")
    return config


def _common_config() -> ConfigDict:
    config = default_config()
    config.seeds = (0, 1, 2)
    config.models = ConfigDict({row: row for row in ("2", "4", "6")})
    config.axes.width = WIDTHS
    config.axes.train_steps = LENGTHS
    config.data.source = "celeba"
    config.data.attribute = "Male"
    config.data.classes = (0, 1)
    config.data.proportions = ((0.5, 0.5),)
    config.data.alternate = False
    config.data.n = (120_000,)
    config.data.size = 32
    config.train.flip = True
    config.train.batch = 512  # 32 a chip
    config.train.learning_rate = RATE
    config.train.dtype = "bfloat16"
    config.train.shard_params = True  # "6" has 1.7e9 parameters at the largest width
    config.train.schedule = "wsd"
    config.train.warmup_steps = 160
    config.train.checkpoint_every = 320  # divides where each cooldown begins
    config.train.keep_last = 1
    config.sample.num = 256
    config.sample.common = 0
    config.sample.batch = 256
    config.sample.dtype = "bfloat16"
    config.classifier.steps = 20_000
    config.measures.held_out = 1024
    config.measures.lpips = "none"
    config.measures.spaces = ("pixels",)
    config.measures.checkpoints = 0
    config.measures.queries = 0
    config.measures.probe = 0
    return config
