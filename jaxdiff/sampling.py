"""Samples of a trained model, each from its own entry of a noise bank."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, ArrayLike, Float, Int
from scipy import stats

from jaxdiff import diffusion, models, parallel, samplers
from jaxdiff.progress import Progress
from jaxdiff.unet import Bypassed, Params, UNet, functional, parameters

BANK = 0x6E6F6973  # sets the keys of a seed's noise bank apart from those of its training
COMMON = 2**31 - 1  # the "seed" of the bank that every seed's models share


def noise_bank(seed: int, indices: Int[ArrayLike, " n"]) -> jax.Array:
    """The keys of the samples with these indices in the noise bank of a seed, the same for every model."""
    bank = jax.random.fold_in(jax.random.key(seed), BANK)
    return jax.vmap(jax.random.fold_in, (None, 0))(bank, jnp.asarray(indices))


class Sampler:
    """Draws from one model, chunk by chunk over all devices, step by step; one compiled program serves every chain.

    A chunk has one size, padded, so that a sample's bits do not depend on how many are asked for. Images are float32
    [n, height, width, channel] in [-1, 1]. Of a U-Net with classes, sample i is of class i modulo their number, or of
    `label`. settings: a sampler's, as a cell's `sample` section has them (method, steps, clip, batch, ...). together: every
    process of the run draws its part, and has the whole.

    `step(params, xt, steps, keys, labels)` is the compiled move from one noise level of the chain to the next.
    """

    def __init__(
        self, model: models.Model, settings: dict[str, Any], progress: Progress, label: int | None = None,
        together: bool = False,
    ):  # fmt: skip
        self.model, self.settings, self.progress = model, settings, progress
        self.shape, self.chunk, self.label = model.shape, settings["batch"], label
        config = model.unet.config
        if config.out_channels != config.in_channels:
            raise ValueError(
                f"this U-Net returns {config.out_channels} channels of {config.in_channels}; no sampler here takes both"
            )
        if config.class_embed_type is not None:
            raise ValueError(
                "this U-Net takes class embeddings that no label gives; call it with them from Python"
            )
        if label is not None and not 0 <= label < (config.num_class_embeds or 0):
            raise ValueError(
                f"label {label} is not known; this U-Net has {config.num_class_embeds or 'no'} classes"
            )
        self.mesh = parallel.global_mesh(self.chunk) if together else parallel.data_mesh(self.chunk)
        self.over = NamedSharding(self.mesh, parallel.DATA)
        self._path = samplers.options(settings).path
        self.use(model.unet)
        self.step = sampling_step(
            model.unet, model.schedule, settings | {"prediction": model.prediction}, self.mesh
        )
        self._predict = self._compile_prediction()

    def use(self, unet: UNet | Bypassed) -> None:
        """Draw with these weights from here on, as of another checkpoint: what is compiled stays."""
        whole = parallel.replicated(self.mesh)
        self.params = {
            n: parallel.to_global_array(np.asarray(p), whole) for n, p in parameters(unet).items()
        }

    def sample(self, indices: Int[np.ndarray, " n"], seed: int) -> Float[np.ndarray, "n h w c"]:
        """The samples of these entries of a seed's bank."""
        return self._in_chunks("sample", indices, self._from_bank(seed), None)

    def _from_bank(self, seed: int) -> Callable[[Array], tuple[Array, Array]]:
        def begin(index: Array) -> tuple[Array, Array]:
            keys = noise_bank(seed, index)
            return samplers.initial_noise(keys, self.shape), keys

        return begin

    def decode(
        self, noise: Float[np.ndarray, "n h w c"], seed: int
    ) -> Float[np.ndarray, "n h w c"]:
        """The images that the whole chain makes of these x_T."""

        def begin(index, xT):
            return (xT, noise_bank(seed, index))

        return self._in_chunks("decode", np.arange(len(noise)), begin, None, noise)

    def path(
        self, indices: Int[np.ndarray, " n"], seed: int, levels: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """The states x_t of these samples on their way, where the chain first is at or below each level; by their t."""
        steps, begin = self._chain(None), jax.jit(self._from_bank(seed), out_shardings=self.over)
        chain = np.asarray(steps.t)
        wanted = {int(chain[chain <= max(level, chain[-1])][0]) for level in levels}
        found: dict[int, list[np.ndarray]] = {t: [] for t in sorted(wanted)}
        for _, part in self._parts("path", indices):
            xt, keys = begin(parallel.to_global_array(part.astype(np.int32), self.over))
            for i, state in self._walk(steps, 1, xt, keys, self._labels(part)):
                if i < len(chain) and int(chain[i]) in wanted:
                    found[int(chain[i])].append(parallel.to_host(state))
        return {t: np.concatenate(states)[: len(indices)] for t, states in found.items()}

    def predict(
        self, xt: Float[ArrayLike, "n h w c"], t: Int[ArrayLike, " n"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The clean images and the noise that the model sees in xt, x0_hat (not clipped) and eps_hat, [n, h, w, c]."""
        states, found = (np.asarray(xt, np.float32), np.asarray(t, np.int32)), []
        n = len(states[0])
        for _, part in self._parts("", np.arange(n)):
            rows = (parallel.to_global_array(array[part], self.over) for array in states)
            found.append(
                [parallel.to_host(a) for a in self._predict(self.params, *rows, self._labels(part))]
            )
        x0_hat, eps_hat = (np.concatenate(arrays)[:n] for arrays in zip(*found, strict=True))
        return x0_hat, eps_hat

    def denoise(
        self, x0: Float[Array, "n h w c"], t: int, seed: int
    ) -> Float[np.ndarray, "n h w c"]:
        """The images x0 noised to the sampler's last step that is not above t (its lowest, if all are), and denoised from there."""
        schedule = self.model.schedule
        chain = np.asarray(samplers.chain(schedule, self.settings["steps"], **self._path).t)
        start = int(chain[chain <= max(t, chain[-1])][0])

        def begin(index: Array, x0: Array) -> tuple[Array, Array]:
            keys = noise_bank(seed, index)
            noise, at = samplers.initial_noise(keys, self.shape), jnp.full(len(index), start)
            return diffusion.add_noise(schedule, x0, noise, at), keys

        return self._in_chunks("denoise", np.arange(len(x0)), begin, start, np.asarray(x0))

    def round_trip(
        self, x0: Float[Array, "n h w c"], iterations: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each image's x_T by DDIM's inversion, the image again, and the RMS difference a pixel (`samplers.round_trip`)."""
        apply, model = functional(self.model.unet), self.model
        options = {
            "prediction": model.prediction,
            "steps": self.settings["steps"],
            "iterations": iterations,
        }

        def local(params: Params, x0: Array, labels: Array | None) -> tuple[Array, Array, Array]:
            return samplers.round_trip(
                lambda x, t: apply(params, x, t, labels), model.schedule, x0, **options
            )

        specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
        run = jax.jit(
            jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=specs,
                out_specs=(parallel.DATA,) * 3,
                check_vma=False,
            )
        )
        found = []
        for first, part in self._parts("invert", np.arange(len(x0))):
            self.progress("invert", first, len(x0), "")
            images = parallel.to_global_array(np.asarray(x0)[part], self.over)
            found.append(
                [parallel.to_host(array) for array in run(self.params, images, self._labels(part))]
            )
        x_T, again, error = (
            np.concatenate(arrays)[: len(x0)] for arrays in zip(*found, strict=True)
        )
        return x_T, again, error

    def _in_chunks(
        self, what: str, indices: np.ndarray, begin: Callable[..., tuple[Array, Array]], start: int | None,
        *inputs: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """begin: from the indices of a chunk, and the same rows of `inputs`, to the first xt and the keys."""
        steps, per_call = self._chain(start), 1 if jax.default_backend() == "cpu" else 10
        first_xt, images = jax.jit(begin, out_shardings=self.over), []
        for first, part in self._parts(what, indices):
            here = min(self.chunk, len(indices) - first)
            rows = (part.astype(np.int32), *(array[part] for array in inputs))
            xt, keys = first_xt(*(parallel.to_global_array(array, self.over) for array in rows))
            for i, state in self._walk(steps, per_call, xt, keys, self._labels(part)):
                self.progress(what, first + here * i // len(steps.t), len(indices), "")
                last = state
            images.append(parallel.to_host(last))
        return np.concatenate(images)[: len(indices)]

    def _chain(self, start: int | None) -> samplers.Step:
        chain = samplers.chain(
            self.model.schedule, self.settings["steps"], start=start, **self._path
        )
        return jax.tree.map(np.asarray, chain)

    def _walk(
        self, steps: samplers.Step, per_call: int, xt: Array, keys: Array, labels: Array | None
    ) -> Iterator[tuple[int, Array]]:
        """How many steps are done, and the state then: before each call, and after the last."""
        for i in range(0, len(steps.t), per_call):
            yield i, xt
            now = samplers.Step(*(column[i : i + per_call] for column in steps))
            xt = self.step(self.params, xt, now, keys, labels)
        yield len(steps.t), xt

    def _parts(self, what: str, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """How many of the indices are done, and the next chunk of them, the last filled up by going round."""
        for first in range(0, len(indices), self.chunk):
            yield first, np.resize(indices[first : first + self.chunk], self.chunk)
        if what:
            self.progress(what, len(indices), len(indices), "")

    def _labels(self, part: np.ndarray) -> Array | None:
        classes = self.model.unet.config.num_class_embeds
        if not classes:
            return None
        labels = part % classes if self.label is None else np.full(len(part), self.label)
        return parallel.to_global_array(labels.astype(np.int32), self.over)

    def _compile_prediction(self) -> Callable[..., tuple[Array, Array]]:
        apply, model = functional(self.model.unet), self.model

        def local(params: Params, xt: Array, t: Array, labels: Array | None) -> tuple[Array, Array]:
            return diffusion.to_x0_and_eps(
                model.schedule, model.prediction, apply(params, xt, t, labels), xt, t
            )

        specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA, parallel.DATA)
        return jax.jit(
            jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=specs,
                out_specs=(parallel.DATA,) * 2,
                check_vma=False,
            )
        )


def sampling_step(
    unet: UNet | Bypassed, schedule: diffusion.Schedule, settings: dict[str, Any], mesh: Mesh
) -> jax.stages.Wrapped:
    """A jitted call (params, xt, steps, keys, labels) -> xt of one or more steps of the sampler, split over the mesh.

    On a CPU one is called at a time, 7 % slower than ten, so that chains of all lengths share it. unet: it may be abstract.
    settings: a sampler's, and `prediction`.
    """
    apply, step = functional(unet), samplers.STEPS[settings["method"]]
    options = samplers.options(settings).step

    def local(
        params: Params, xt: Array, now: samplers.Step, keys: Array, labels: Array | None
    ) -> Array:
        def one(xt: Array, now: samplers.Step) -> Array:
            return step(
                lambda x, t: apply(params, x, t, labels), schedule, xt, now, keys, **options
            )

        if len(now.t) == 1:
            return one(xt, jax.tree.map(lambda column: column[0], now))
        return jax.lax.scan(lambda x, at: (one(x, at), None), xt, now)[0]

    specs = (parallel.REPLICATED, parallel.DATA, parallel.REPLICATED, parallel.DATA, parallel.DATA)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False)
    )


def mean_eps_slope(drawer: Sampler, x0: Float[Array, "n h w c"], seed: int) -> dict[str, Any]:
    """Slope of the predicted on the true image mean of eps at t = T - 1, with its 95 % interval; 1 is right.

    An instance norm before the last convolution hides the mean of eps from an eps-predicting network, whose slope is
    then near 0: samples are well formed on a background of arbitrary brightness.
    """
    model, n = drawer.model, len(x0)
    t = jnp.full(n, model.schedule.steps - 1)
    eps = samplers.initial_noise(noise_bank(seed, np.arange(n)), drawer.shape)
    predicted = drawer.predict(diffusion.add_noise(model.schedule, x0, eps, t), t)[1]
    means = [np.asarray(e.mean(axis=(1, 2))).ravel() for e in (eps, predicted)]
    fit = stats.linregress(*means)
    half = float(stats.t.ppf(0.975, means[0].size - 2)) * float(fit.stderr)
    slope = float(fit.slope)
    return {"name": "mean_eps_slope", "value": slope, "low": slope - half, "high": slope + half, "n": n,
            "interval": "least squares 95 %"}  # fmt: skip
