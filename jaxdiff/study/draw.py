"""Samples of a trained model, each from its own entry of a noise bank."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from jaxdiff import diffusion, models, parallel, samplers
from jaxdiff.unet import Params, abstract, functional, parameters

# (what is being done, how much of it is done, of how much, a note such as the loss)
Progress = Callable[[str, int, int, str], None]
BANK = 0x6E6F6973  # sets the keys of a seed's noise bank apart from those of its training
COMMON = 2**31 - 1  # the "seed" of the bank that every seed's models share


def noise_bank(seed: int, indices: Int[np.ndarray, " n"]) -> jax.Array:
    """The keys of the samples with these indices in the noise bank of a seed, the same for every model."""
    bank = jax.random.fold_in(jax.random.key(seed), BANK)
    return jax.vmap(jax.random.fold_in, (None, 0))(bank, jnp.asarray(indices))


class Drawer:
    """Draws from one model, chunk by chunk over all devices; compiled once for each place where a chain begins.

    A chunk has one size, padded, so that a sample's bits do not depend on how many are asked for. Images are float32
    [n, size, size, channel] in [-1, 1].
    """

    def __init__(self, model: models.Model, settings: dict[str, Any], progress: Progress):
        size, channels = model.config["data"]["size"], model.unet.config.in_channels
        self.model, self.settings, self.progress = model, settings, progress
        self.shape, self.chunk = (size, size, channels), settings["batch"]
        self.mesh = parallel.data_mesh(self.chunk)
        self.params = jax.device_put(parameters(model.unet), parallel.replicated(self.mesh))
        self._compiled: dict[int | None, Callable] = {}

    def sample(self, indices: Int[np.ndarray, " n"], seed: int) -> Float[np.ndarray, "n h w c"]:
        """The samples of these entries of a seed's bank."""

        def chunk(part: np.ndarray) -> Array:
            keys = noise_bank(seed, part)
            return self._run(None)(self.params, samplers.initial_noise(keys, self.shape), keys)

        return self._in_chunks("sample", indices, chunk)

    def denoise(self, x0: Float[Array, "n h w c"], t: int, seed: int) -> Float[np.ndarray, "n h w c"]:
        """The images x0 noised to the sampler's last step that is not above t (its lowest, if all are), and denoised from there."""
        chain = samplers.timesteps(self.model.schedule, self.settings["steps"])
        start = int(chain[chain <= max(t, chain[-1])][0])

        def chunk(part: np.ndarray) -> Array:
            keys, images = noise_bank(seed, part), x0[part]
            at = jnp.full(len(part), start)
            xt = diffusion.add_noise(self.model.schedule, images, samplers.initial_noise(keys, self.shape), at)
            return self._run(start)(self.params, xt, keys)

        return self._in_chunks("denoise", np.arange(len(x0)), chunk)

    def _in_chunks(self, what: str, indices: np.ndarray, run: Callable[[np.ndarray], Array]) -> np.ndarray:
        images = []
        for first in range(0, len(indices), self.chunk):
            self.progress(what, first, len(indices), "")
            images.append(np.asarray(run(np.resize(indices[first : first + self.chunk], self.chunk))))
        self.progress(what, len(indices), len(indices), "")
        return np.concatenate(images)[: len(indices)]

    def _run(self, start: int | None) -> Callable[[Params, Array, Array], Array]:
        if start not in self._compiled:
            s, apply = self.settings, functional(abstract(self.model.unet.config))
            options = {"eta": s["eta"]} if s["method"] == "ddim" else {}
            sampler = getattr(samplers, s["method"])

            def local(params: Params, xt: Array, keys: Array) -> Array:
                return sampler(
                    lambda x, t: apply(params, x, t), self.model.schedule, xt, keys, start=start,
                    prediction=self.model.prediction, steps=s["steps"], clip=s["clip"], **options,
                )  # fmt: skip

            specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
            mapped = jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False)
            self._compiled[start] = jax.jit(mapped)
        return self._compiled[start]


def mean_eps_slope(drawer: Drawer, x0: Float[Array, "n h w c"], seed: int) -> dict[str, Any]:
    """Slope of the predicted on the true image mean of eps at t = T - 1, with its 95 % interval; 1 is right.

    An instance norm before the last convolution hides the mean of eps from an eps-predicting network, whose slope is
    then near 0: samples are well formed on a background of arbitrary brightness.
    """
    model, n = drawer.model, len(x0)
    t = jnp.full(n, model.schedule.steps - 1)
    eps = samplers.initial_noise(noise_bank(seed, np.arange(n)), drawer.shape)
    xt = diffusion.add_noise(model.schedule, x0, eps, t)
    output = jax.jit(functional(abstract(model.unet.config)))(parameters(model.unet), xt, t)
    predicted = diffusion.to_x0_and_eps(model.schedule, model.prediction, output, xt, t)[1]
    means = [np.asarray(e.mean(axis=(1, 2))).ravel() for e in (eps, predicted)]
    fit = stats.linregress(*means)
    half = float(stats.t.ppf(0.975, means[0].size - 2)) * float(fit.stderr)
    slope = float(fit.slope)
    return {"name": "mean_eps_slope", "value": slope, "low": slope - half, "high": slope + half, "n": n,
            "interval": "least squares 95 %"}  # fmt: skip
