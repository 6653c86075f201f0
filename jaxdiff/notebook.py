"""The notebook's door: data, training, sampling and measures without a study's folders.

Images are float [N, H, W, C] in [-1, 1] or uint8 everywhere; what is returned is uint8.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from jaxdiff import diffusion
from jaxdiff.datasets.dataset import Dataset
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.datasets.registry import default_channels, load_splits, open_dataset
from jaxdiff.datasets.training_sets import training_set as select_training_set
from jaxdiff.denoiser import as_function, check_denoiser, get_params
from jaxdiff.estimates import Estimate
from jaxdiff.landscape import curvature as curvatures
from jaxdiff.measures import lpips as lpips_measure
from jaxdiff.measures import memorization as memorization_measure
from jaxdiff.models import Model
from jaxdiff.precision import measuring
from jaxdiff.programs import share_programs
from jaxdiff.progress import Progress
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.training import fit_network
from jaxdiff.unet import TABLE_A, UNet

Images = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray | Array, "n h w c"]
CACHE = "~/.cache/jaxdiff"
MAX_FLOAT = 1.5  # float images are in [-1, 1] but for what resizing or sampling adds
KEPT_SETTINGS = ("unet", "scheduler", "diffusion", "sample")  # of a model that is trained further


class TrainingData(NamedTuple):
    """Training images at exact proportions, their labels, and images that no model sees."""

    train: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    held_out: UInt8[np.ndarray, "m h w c"]
    held_out_labels: Int[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class NotebookDataset:
    """A dataset from which mixtures are drawn."""

    dataset: Dataset
    cache: epath.Path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.dataset.classes

    def mixture(self, counts: Mapping[int, int], seed: int = 0) -> TrainingData:
        """Exactly `counts[label]` training images of each class, and held-out images of these.

        Raises
        ------
        ValueError
            Where the dataset has too few images of a class.
        """
        ordered = {label: counts[label] for label in sorted(counts)}
        indices = select_training_set(self.dataset, ordered, part=0, parts=1, seed=seed)
        splits = load_splits(self.dataset, self.cache, indices, _show)
        held_out = splits["held_out"]
        is_class = np.isin(held_out.labels, list(counts))
        return TrainingData(
            splits["train"].images,
            splits["train"].labels,
            held_out.images[is_class],
            held_out.labels[is_class],
        )


def dataset(
    name: str = "digits",
    *,
    size: int = 16,
    channels: int = 0,
    data_dir: str | None = None,
    cache: str = CACHE,
) -> NotebookDataset:
    """Open a dataset by name, as experiments.dataset does.

    Parameters
    ----------
    name
        digits, colored_digits, celeba, folder:PATH, tfds:NAME, or a registered name.
    size
        Height and width in pixels.
    channels
        1 for gray, 3 for RGB; 0 takes the dataset's default.
    data_dir
        Folder of the published data.
    cache
        Folder of prepared datasets.
    """
    channels = channels or default_channels(name)
    opened = open_dataset(name, size=size, channels=channels, data_dir=data_dir)
    return NotebookDataset(opened, epath.Path(cache).expanduser())


def build_unet(
    row: str = "2", *, width: float = 0.25, size: int = 16, channels: int = 1, seed: int = 0
) -> UNet:
    """A U-Net of Table A with random weights.

    Parameters
    ----------
    row
        A key of TABLE_A: "2", "2-large", "3", "4", "5" or "6".
    width
        Factor on channels and groups.
    size, channels
        Side (pixels) and channels of the images.
    seed
        Seed of the weights.

    Raises
    ------
    ValueError
        For another row, and for images that the U-Net cannot halve as often as it has levels.
    """
    if row not in TABLE_A:
        raise ValueError(f"row must be one of {', '.join(TABLE_A)}, got {row!r}; choose one")
    config = dataclasses.replace(
        TABLE_A[row].widened(width),
        in_channels=channels,
        out_channels=channels,
        sample_size=size,
    )
    config.check_image_size(size)
    return UNet(config, rngs=nnx.Rngs(seed))


def fit(
    model: Model,
    images: Images | TrainingData,
    *,
    steps: int = 1000,
    batch: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Train a model; the given one is left as it is.

    Parameters
    ----------
    model
        A U-Net or any Denoiser, with its schedule and prediction.
    images
        Training images, or the result of `NotebookDataset.mixture`.
    steps
        Optimizer steps.
    batch
        Images a step.
    learning_rate
        Peak of the cosine schedule.
    seed
        Seed of batches and noise.
    progress
        By default a line of text that is rewritten.

    Returns
    -------
    model
        With the moving average of the weights.

    Raises
    ------
    ValueError
        For images of another size than the model's, and for those that are neither uint8 nor
        floats in [-1, 1].
    """
    check_denoiser(model.unet)
    show = _show if progress is None else progress
    arrays = _as_uint8(images.train if isinstance(images, TrainingData) else images)
    _check_shape(model, arrays)
    show("train", 0, steps, "compiling")
    outputs = fit_network(
        model.unet,
        model.schedule,
        model.prediction,
        arrays,
        train_steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        output_every=max(1, steps // 10),
    )
    for output in outputs:
        show("train", output.step, steps, f"loss {output.loss:.4f}")
    # What the settings say of the data and the training that came before no longer holds.
    config = {key: model.config[key] for key in KEPT_SETTINGS if key in model.config}
    if "data" in model.config:
        config["data"] = {"size": model.config["data"]["size"]}
    return dataclasses.replace(model, unet=output.ema_network(), config=config)


def sample(
    model: Model,
    num: int = 64,
    *,
    seed: int = 0,
    method: str = "ddim",
    steps: int = 50,
    batch: int = 64,
    dtype: str = "float32",
    progress: Progress | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Sample a model; sample i of a seed is the same image for any `num`.

    Parameters
    ----------
    model
        A trained model.
    num
        Number of samples.
    seed
        Names the noise bank.
    method, steps
        A name of `jaxdiff.samplers.SAMPLERS`, and its number of steps.
    batch
        Samples computed at once.
    dtype
        Type of the network's activations and products: float32, or bfloat16 on accelerators.
    """
    spec = SamplerSpec.from_settings({"method": method, "steps": steps, "clip": True})
    show = _show if progress is None else progress
    sampler = Sampler(model, spec, batch=batch, progress=show, dtype=dtype)
    return to_uint8(sampler.sample(np.arange(num), seed))


@measuring()
def lpips(images: Images, net: str = "vgg") -> Estimate:
    """Mean LPIPS over all pairs of images, with its jackknife interval; larger is more diverse."""
    return lpips_measure.LPIPS.load(net).mean_pairwise(_as_uint8(images))


@measuring()
def memorization(samples: Images, train: Images, held_out: Images) -> list[Estimate]:
    """How much samples copy the training images, beside the same of held-out images."""
    sets = {"samples": _rows(samples), "held_out": _rows(held_out)}
    return memorization_measure.memorization_metrics(sets, _rows(train))


@measuring()
def curvature(
    model: Model, images: Images, t: int, *, seed: int = 0, probes: int = 16
) -> dict[str, Estimate]:
    """Curvature of a model's energy at noised images: M = I - H / 2 = s d(x0_hat)/dx.

    Parameters
    ----------
    model
        A U-Net or any Denoiser.
    images
        Clean images.
    t
        Noise level, 0..T-1.
    seed
        Seed of the noise and of the random vectors.
    probes
        Vectors of Hutchinson's estimator, where the matrix is too large to be computed.

    Returns
    -------
    estimates
        ``spectral_norm``, ``smallest``, ``largest``, ``frobenius_norm``, ``trace``,
        ``stable_rank`` and ``asymmetry`` of M, each a mean over the images with a t interval.
    """
    pixels = _as_uint8(images)
    _check_shape(model, pixels)
    x0 = to_float(pixels)
    times = jnp.full(len(x0), t)
    noise_key, probe_key = jax.random.split(jax.random.key(seed))
    eps = jax.random.normal(noise_key, x0.shape)
    xt = diffusion.add_noise(model.schedule, x0, eps, times)
    field = _build_field(as_function(model.unet), model.schedule, model.prediction)
    params = get_params(model.unet)
    readings = curvatures.curvature(field, xt, probe_key, params, jnp.int32(t), probes=probes)
    return {
        name: Estimate.mean(np.asarray(values).tolist(), "images", name)
        for name, (values, _) in readings.items()
        if values.ndim == 1  # the leading eigenvalues have an axis of their own
    }


@share_programs
def _build_field(
    apply: Callable[..., Array], schedule: diffusion.Schedule, prediction: diffusion.Prediction
) -> curvatures.Field:
    """The field whose Jacobian is M, s x0_hat; the noise level is an argument of its program."""

    def denoise(x: Array, params: Any, t: Array) -> Array:
        batch = x[None]
        t_batch = t[None]
        output = apply(params, batch, t_batch)
        x0_hat, _ = diffusion.to_x0_and_eps(schedule, prediction, output, batch, t_batch)
        return jnp.sqrt(jnp.asarray(schedule.alpha_bar)[t]) * x0_hat[0]

    return curvatures.Field(denoise)


def _as_uint8(images: Any) -> UInt8[np.ndarray, "n h w c"]:
    """Images as uint8, whichever kind of array or list they are in."""
    array = np.asarray(images)
    if array.ndim != 4:
        raise ValueError(
            f"images must be [n, height, width, channels], got an array {list(array.shape)}; add "
            "the axes that are missing"
        )
    if array.dtype == np.uint8:
        return array
    is_float = np.issubdtype(array.dtype, np.floating)
    largest = float(np.abs(array).max(initial=0))
    if not is_float or not largest <= MAX_FLOAT:
        raise ValueError(
            f"images must be uint8, or floats in [-1, 1], got {array.dtype} with values up to "
            f"{largest:g}; convert them"
        )
    return to_uint8(array)


def _check_shape(model: Model, images: UInt8[np.ndarray, "n h w c"]) -> None:
    if images.shape[1:] != tuple(model.shape):
        sizes = [" x ".join(map(str, shape)) for shape in (model.shape, images.shape[1:])]
        raise ValueError(
            f"images must have the model's size, {sizes[0]} (height, width, channels), got "
            f"{sizes[1]}; load or resize them so, or build the U-Net with their size"
        )


def _rows(images: Images) -> UInt8[np.ndarray, "n d"]:
    return _as_uint8(images).reshape(len(images), -1)


def _show(task: str, done: int, total: int, note: str) -> None:
    """Progress as a line that is rewritten on a screen; in a file, the last state alone."""
    is_done = done >= total
    line = f"{task}: {done}/{total} {note}"
    if sys.stdout.isatty() or "ipykernel" in sys.modules:
        print("\r" + line.ljust(60), end="\n" if is_done else "", flush=True)
    elif is_done:
        print(line.rstrip(), flush=True)
