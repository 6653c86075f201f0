"""Samples of a trained model, batched over devices, each from its own entry of a noise bank."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxdiff import models, parallel
from jaxdiff.denoiser import get_params
from jaxdiff.noise_bank import bank_data
from jaxdiff.precision import COMPUTE_DTYPES, sampling
from jaxdiff.progress import Progress, no_progress
from jaxdiff.samplers import SAMPLERS, SamplerSpec
from jaxdiff.sampling_programs import (
    compile_begin,
    compile_begin_from,
    compile_begin_noised,
    compile_inversion,
    compile_prediction,
    compile_result,
    compile_step,
    steps_per_call,
    walk,
)
from jaxdiff.source_code import code_digest

Images = Float[ArrayLike, "n height width channel"]


def sampling_code_digest(spec: SamplerSpec) -> str:
    """SHA-256 of the code that samples: what it drew is drawn again once the code is another."""
    return code_digest(SAMPLERS[spec.method], Sampler)


class Sampler:
    """Samples from one model in batches over all devices.

    All batches have one size, the last one padded, so that a sample's bits do not depend on how
    many are asked for; one compiled step serves every chain. Images are float32
    [n, height, width, channel] in [-1, 1]. Within a measure `decode`, `predict` and `invert` take
    exact float32 products, and the others draw as outside of it (`jaxdiff.precision`).

    Parameters
    ----------
    model
        Its network is any `jaxdiff.denoiser.Denoiser`: an nnx.Module that is called as
        (xt, t, labels=None, keys=None) and has input_shape and num_classes.
    spec
        Sampler, number of steps and options.
    batch
        Samples computed at once.
    progress
        Is told the number of samples after each batch, and in a batch after groups of steps.
    label
        Class of all samples; by default sample i is of class i modulo the number of classes.
    all_processes
        Whether all processes of a run share the work, each one receiving all samples. By default
        a process samples on its own devices alone.
    dtype
        Type of the network's activations and products in the chain: float32 or bfloat16. The
        sampler's arithmetic is float32, and `predict` and `invert` take the network in float32.

    Attributes
    ----------
    model
        The model.
    spec
        Sampler, number of steps and options.
    image_shape
        Height, width and channels of an image.
    step
        Compiled function (params, carry, steps, keys, labels) -> carry, see `compile_step`.
    params
        The network's parameters on the devices.
    sharding
        Sharding of a batch's arrays.

    Raises
    ------
    ValueError
        For a network that cannot be sampled from, a model that does not say the size of its images,
        a label that the network does not have, and another dtype.
    """

    def __init__(
        self,
        model: models.Model,
        spec: SamplerSpec,
        *,
        batch: int = 64,
        progress: Progress = no_progress,
        label: int | None = None,
        all_processes: bool = False,
        dtype: str = "float32",
    ):
        check_network(model.unet)
        if dtype not in COMPUTE_DTYPES:
            raise ValueError(
                f"the dtype of sampling must be one of {', '.join(COMPUTE_DTYPES)}, got {dtype!r}; "
                "choose one of them"
            )
        self.model = model
        self.image_shape = model.shape
        self._num_classes = count_classes(model.unet)
        if label is not None and not 0 <= label < self._num_classes:
            raise ValueError(
                f"the label must be below the network's number of classes, {self._num_classes}, "
                f"got {label}; leave it out, or choose a smaller one"
            )
        self._label = label
        self._batch = batch
        self._progress = progress
        self._method = spec.build(model.prediction)
        self.spec = spec
        self._mesh = parallel.global_mesh(batch) if all_processes else parallel.data_mesh(batch)
        self.sharding = NamedSharding(self._mesh, parallel.DATA)
        self.set_params(model.unet)
        # Parameters are arguments of what is compiled: `set_params` needs no new program. A sampler
        # that a measure makes shares the programs of the one that drew the samples.
        with sampling():
            self.step = compile_step(model.unet, model.schedule, self._method, self._mesh, dtype)
            self._result = compile_result(self._method)
            self._predict = compile_prediction(model, self._mesh)
            self._begin = compile_begin(self._method, self.image_shape, self.sharding)

    def set_params(self, network: nnx.Module) -> None:
        """Sample with this network's parameters from now on, without compiling again."""
        # From the host, so that each process places its own part of the mesh.
        self.params = parallel.replicate(get_params(network), self._mesh)

    def sample(self, indices: Int[np.ndarray, " n"], seed: int) -> Float[np.ndarray, "n h w c"]:
        """Sample from these entries of a seed's noise bank."""
        with sampling():
            return self._run("sample", self._begin, seed, indices)

    def decode(self, x_T: Images, seed: int) -> Float[np.ndarray, "n h w c"]:
        """Run the whole chain from x_T; the seed's noise bank gives the noise of its steps."""
        noise = np.asarray(x_T)
        begin = compile_begin_from(self._method, self.sharding)
        return self._run("decode", begin, seed, np.arange(len(noise)), noise)

    def denoise(self, x0: Images, t: int, seed: int) -> Float[np.ndarray, "n h w c"]:
        """Noise images to a timestep and denoise them from there.

        Parameters
        ----------
        x0
            Images float [n, height, width, channel].
        t
            Timestep. The chain is entered at its highest step that is not above t, or at its
            lowest one.
        seed
            Its noise bank gives the noise.
        """
        images = np.asarray(x0)
        start = last_not_above(self._chain().t, t)

        begin_at = compile_begin_noised(
            self._method, self.model.schedule, self.image_shape, self.sharding
        )

        def begin(bank: np.ndarray, index: Array, x0: Array) -> tuple[PyTree, Array]:
            # An argument, so that one program serves every timestep.
            return begin_at(bank, index, x0, np.int32(start))

        with sampling():
            return self._run("denoise", begin, seed, np.arange(len(images)), images, start=start)

    def trajectory(
        self, indices: Int[np.ndarray, " n"], seed: int, levels: Sequence[int]
    ) -> dict[int, Float[np.ndarray, "n h w c"]]:
        """States xt of these samples on their way through the chain.

        Parameters
        ----------
        indices
            Entries of the noise bank.
        seed
            Names the noise bank.
        levels
            Timesteps; of each one the chain's highest step that is not above it is taken, or its
            lowest one.

        Returns
        -------
        dict
            Each step's xt, float [n, height, width, channel], by its t in ascending order.
        """
        chain = self._chain()
        bank = bank_data(seed)
        batches: dict[int, list[np.ndarray]] = {
            t: [] for t in sorted({last_not_above(chain.t, level) for level in levels})
        }
        for done, (index,) in self._batches(indices):
            states = {}
            with sampling():
                carry, keys = self._begin(bank, self._place(index))
                for i, state in walk(
                    self.step, chain, 1, self.params, carry, keys, self._labels(index)
                ):
                    # A sampler may visit a t twice: the later state stays.
                    # `walk` yields the carry before step i, which holds x at t[i], and once more at
                    # the end.
                    if i < len(chain.t) and chain.t[i] in batches:
                        states[int(chain.t[i])] = parallel.to_host(self._result(state))
            for t, xt in states.items():
                batches[t].append(xt)
            self._progress("trajectory", done, len(indices), "")
        return {t: np.concatenate(parts)[: len(indices)] for t, parts in batches.items()}

    def predict(
        self, xt: Images, t: Int[ArrayLike, " n"]
    ) -> tuple[Float[np.ndarray, "n h w c"], Float[np.ndarray, "n h w c"]]:
        """The clean images (not clipped) and the noise that the model predicts from xt."""
        images = np.asarray(xt, np.float32)
        indices = np.arange(len(images))
        results = []
        for _, (index, *rows) in self._batches(indices, images, np.asarray(t, np.int32)):
            inputs = [self._place(row) for row in rows]
            x0_hat, eps_hat = self._predict(self.params, *inputs, self._labels(index))
            results.append((parallel.to_host(x0_hat), parallel.to_host(eps_hat)))
        x0_hats, eps_hats = zip(*results, strict=True)
        return np.concatenate(x0_hats)[: len(images)], np.concatenate(eps_hats)[: len(images)]

    def invert(
        self, x0: Images, iterations: int
    ) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " n"]]:
        """Invert images by DDIM and sample them again.

        Returns
        -------
        tuple
            x_T, the images that come back, and each image's RMS difference a pixel, as
            `samplers.round_trip` gives them.
        """
        images = np.asarray(x0)
        invert = compile_inversion(self.model, self.spec.steps, iterations, self._mesh)
        results = []
        for done, (index, rows) in self._batches(np.arange(len(images)), images):
            inverted = invert(self.params, self._place(rows), self._labels(index))
            results.append([parallel.to_host(array) for array in inverted])
            self._progress("invert", done, len(images), "")
        x_T, sampled, error = zip(*results, strict=True)
        count = len(images)
        return (
            np.concatenate(x_T)[:count],
            np.concatenate(sampled)[:count],
            np.concatenate(error)[:count],
        )

    def _run(
        self,
        task: str,
        begin: Callable[..., tuple[PyTree, Array]],
        seed: int,
        indices: Int[np.ndarray, " n"],
        *inputs: np.ndarray,
        start: int | None = None,
    ) -> Float[np.ndarray, "n h w c"]:
        """Run the chain from `begin`, which maps a bank, indices and inputs to carry and keys."""
        chain = self._chain(start)
        bank = bank_data(seed)
        images: list[np.ndarray] = []
        reported = 0
        for batch_end, (index, *rows) in self._batches(indices, *inputs):
            batch_begin = self._batch * len(images)
            carry, keys = begin(bank, *(self._place(array) for array in (index, *rows)))
            labels = self._labels(index)
            for steps_done, state in walk(
                self.step, chain, steps_per_call(), self.params, carry, keys, labels
            ):
                carry = state
                done = batch_begin + (batch_end - batch_begin) * steps_done // len(chain.t)
                if done > reported:
                    self._progress(task, done, len(indices), "")
                    reported = done
            images.append(parallel.to_host(self._result(carry)))
        return np.concatenate(images)[: len(indices)]

    def _chain(self, start: int | None = None) -> Any:
        return self._method.chain(self.model.schedule, self.spec.steps, start)

    def _batches(self, *arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield the rows done after each batch and the batch's rows, the last padded by its own."""
        total = len(arrays[0])
        for first in range(0, total, self._batch):
            end = min(first + self._batch, total)
            # np.resize repeats the batch's own rows, which are as good an input as any.
            rows = np.resize(np.arange(first, end), self._batch)
            yield end, [array[rows] for array in arrays]

    def _place(self, rows: np.ndarray) -> Array:
        # JAX's integers have 32 bits: index and labels come as NumPy's 64.
        integer = np.issubdtype(rows.dtype, np.integer)
        return parallel.to_global_array(rows.astype(np.int32) if integer else rows, self.sharding)

    def _labels(self, index: Int[np.ndarray, " batch"]) -> Array | None:
        if not self._num_classes:
            return None
        if self._label is not None:
            return self._place(np.full(len(index), self._label))
        return self._place(index % self._num_classes)


def last_not_above(t: Int[np.ndarray, " step"], level: int) -> int:
    """The first of the falling timesteps t that is not above a level, or the lowest one."""
    return int(t[t <= max(level, t[-1])][0])


def check_network(network: Any) -> None:
    """Check that a network can be sampled from.

    Raises
    ------
    ValueError
        For what is no network, for a network that returns other channels than it takes, and for one
        that takes class embeddings.
    """
    config = getattr(network, "config", None)
    channels = getattr(config, "in_channels", None)
    has_shape = channels is not None or hasattr(network, "input_shape")
    if not isinstance(network, nnx.Module) or not callable(network) or not has_shape:
        raise ValueError(
            "a network must be an nnx.Module that is called as (xt, t, labels=None, keys=None) and "
            "has input_shape (height, width, channels) and num_classes, got "
            f"{type(network).__name__}; add what is missing"
        )
    out_channels = getattr(config, "out_channels", channels)
    if out_channels != channels:
        raise ValueError(
            f"a network must return as many channels as it takes, {channels}, got {out_channels}; "
            "no sampler uses learned variances"
        )
    embedding = getattr(config, "class_embed_type", None)
    if embedding is not None:
        raise ValueError(
            "a network must take integer labels or none, got one with the class_embed_type "
            f"{embedding}; call it with its class embeddings from Python"
        )


def count_classes(network: Any) -> int:
    """Number of a network's classes, 0 where it takes no labels."""
    if hasattr(network, "num_classes"):
        return network.num_classes or 0
    return getattr(getattr(network, "config", None), "num_class_embeds", None) or 0
