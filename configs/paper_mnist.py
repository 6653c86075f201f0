"""Figure 4 of the paper in full: depths 2 to 6 of Table A on 6s and 9s at four proportions.

Hardware: one accelerator. Time: hours. Full MNIST is needed, as its four idx files or mnist.pkl.gz:
--config.data.dir=FOLDER. Of 5,000 training images at 90-10, 4,500 show the same digit; with the
5,000 embedded digits alone the run stops with an error that says how many images are available.
The primary claim compares "6" with "2" over six seeds, three with each digit as the majority.
Expect: the paper reports that the minority's share falls below its proportion as depth grows.
"""

from ml_collections import ConfigDict

from jaxdiff.study.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "paper_mnist"
    config.seeds = (0, 1, 2, 3, 4, 5)
    config.models = ConfigDict({depth: depth for depth in ("2", "3", "4", "5", "6")})
    config.data.size = 32
    config.data.n = (5000,)
    config.data.proportions = ((0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4))
    config.train.steps = 20_000
    config.train.batch = 128
    config.train.learning_rate = 2e-4
    config.train.checkpoint_every = 2_000
    config.sample.num = 1000
    config.sample.method = "ddpm"
    config.sample.steps = 1000
    return config
