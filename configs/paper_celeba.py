"""Tables 2 and 3 of the paper in full: six U-Nets on CelebA.

The minority is Male with 41.68 %, and the rare group is blond men with 0.86 %.

Hardware: an accelerator, for days for each of the four seeds, or several that share the study by
--shard. CelebA is needed in a form that docs/data.md describes: --config.data.dir=FOLDER. The study
takes 150,000 of its 162,770 training images at the paper's proportions. The classifier of Male is
trained on the validation images, and its errors are counted on test images.
Expect: the paper reports that the share of Male falls from 40.33 % at depth 2 to 28.85 % at
depth 6.
"""

from ml_collections import ConfigDict

from jaxdiff.datasets.colored_mnist import CELEBA_GROUPS
from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "paper_celeba"
    config.seeds = (0, 1, 2, 3)
    config.models = ConfigDict({row: row for row in ("2", "2-large", "3", "4", "5", "6")})
    config.data.source = "celeba"
    config.data.attribute = "Male"
    config.data.group = "Blond_Hair"
    config.data.classes = (0, 1)
    config.data.proportions = (CELEBA_GROUPS,)
    config.data.alternate = False
    config.data.n = (150_000,)
    config.data.size = 64
    config.train.flip = True
    config.train.steps = 100_000
    config.train.batch = 128
    config.train.learning_rate = 2e-4
    config.train.checkpoint_every = 5_000
    config.sample.num = 10_000
    config.sample.method = "ddpm"
    config.sample.steps = 1000
    config.classifier.steps = 20_000
    return config
