"""Pictures from prompts: a Stable Diffusion 1 pipeline whose mid-block may be bypassed.

The safety checker of the published pipeline is left out: nothing is blacked out.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff import diffusers_scheduler, parallel, samplers
from jaxdiff import rng as random
from jaxdiff.diffusion import Batch, Prediction, Schedule
from jaxdiff.samplers import Predict
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pndm import pndm
from jaxdiff.stable_diffusion.text_encoder import TextEncoder
from jaxdiff.stable_diffusion.tokenizer import Tokenizer
from jaxdiff.stable_diffusion.vae import VAE
from jaxdiff.unet import Bypassed, Form, Params, UNet, check_fraction, functional

Window = tuple[float | int, float | int]
Sampler = Callable[[Predict, Array], Array]


def compute_dtype() -> DTypeLike:
    """bfloat16 on accelerators, float32 on a CPU, which has no fast products of the other."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The parts of a pipeline: networks without their arrays, and these by part's name.

    sampling: the settings of the sampler that the folder's scheduler asks for (`diffusers_scheduler.sampler_settings`). texts: those
    that were embedded.
    """

    tokenizer: Tokenizer
    text_encoder: TextEncoder
    unet: UNet
    vae: VAE
    params: dict[str, Params]
    schedule: Schedule
    prediction: Prediction
    sampling: dict[str, Any]
    texts: dict[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: epath.PathLike, dtype: DTypeLike | None = None) -> "Pipeline":
        """From a diffusers folder of Stable Diffusion 1.x or of a fine-tune of it, .safetensors or .bin, fp32 or fp16.

        dtype: of matrices and kernels, `compute_dtype()` by default. Raises ValueError where the folder is of another
        model (2.x, XL), lacks a part, or asks for what is not known here.
        """
        place, dtype = epath.Path(folder), dtype or compute_dtype()
        folders.check(place)
        text_encoder, unet, vae = folders.abstract(place)
        scheduler = folders.scheduler(place)
        tokenizer = Tokenizer.load(place / "tokenizer", text_encoder.config.max_position_embeddings)
        words, rows = tokenizer.pieces.get_vocab_size(), text_encoder.config.vocab_size
        if words > rows:
            raise ValueError(
                f"{place}: its tokenizer has {words} tokens and its text encoder {rows}; get the whole folder again"
            )
        modules = {"text_encoder": text_encoder, "unet": unet, "vae": vae}
        params = {
            name: folders.read_weights(place, name, module, dtype)
            for name, module in modules.items()
        }
        return cls(
            tokenizer, text_encoder, unet, vae, params, diffusers_scheduler.build_schedule(scheduler),
            diffusers_scheduler.get_prediction(scheduler), diffusers_scheduler.sampler_settings(scheduler),
        )  # fmt: skip

    @property
    def dtype(self) -> DTypeLike:
        """In which the networks compute."""
        return self.params["unet"]["conv_in.weight"].dtype

    def embed(self, texts: Sequence[str]) -> Float[Array, "text token feature"]:
        """What the U-Net attends to, of each text; one at a time, so that its bits do not depend on the others."""
        encode = _text(self.text_encoder)
        for text in texts:
            if text not in self.texts:
                self.texts[text] = encode(
                    self.params["text_encoder"], jnp.asarray(self.tokenizer([text]))
                )
        return jnp.concatenate([self.texts[text] for text in texts])


def picture_size(unet: UNet, vae: VAE) -> tuple[int, int]:
    """Height and width of the pictures that the U-Net was trained for."""
    size = unet.config.sample_size or 64
    height, width = (size, size) if isinstance(size, int) else size
    return height * vae.config.factor, width * vae.config.factor


def check_size(unet: UNet, vae: VAE, size: tuple[int, int]) -> None:
    """Raise ValueError for a height or a width that the networks cannot halve as often as they do."""
    for side in size:
        if side % vae.config.factor:
            raise ValueError(
                f"a picture of {side} px on a side has no latents; choose a multiple of {vae.config.factor}"
            )
        unet.config.check_image_size(side // vae.config.factor)


@functools.lru_cache(maxsize=2)
def _text(encoder: TextEncoder) -> Callable[..., Array]:
    return jax.jit(functional(encoder))


def sampler(schedule: Schedule, prediction: Prediction, settings: dict[str, Any]) -> Sampler:
    """(predict, x_T) -> x0 of a scheduler's settings: PNDM, or DDIM without noise; the whole loop."""
    keys = ("steps", "spacing", "offset", "to_one")
    common: dict[str, Any] = {"prediction": prediction} | {key: settings[key] for key in keys}
    if settings["method"] == "pndm":
        return lambda predict, x_T: pndm(predict, schedule, x_T, **common)
    more = {key: settings[key] for key in ("clip", "rederive", "stride")}

    def nothing(x):
        return jax.random.split(jax.random.key(0), len(x))

    return lambda predict, x_T: samplers.ddim(
        predict, schedule, x_T, nothing(x_T), **common, **more
    )


def guided(
    apply: Callable[..., Array],
    params: Params,
    text: Array,
    empty: Array,
    guidance: Array,
    dtype: DTypeLike,
) -> Predict:
    """eps (or v) by classifier-free guidance (Ho & Salimans 2022): without + guidance (with - without the text).

    One call of the network for both; guidance 1 is the conditional model alone.
    """
    context = jnp.concatenate([empty, text]).astype(dtype)

    def predict(xt: Batch, t: Array) -> Array:
        twice = jnp.concatenate([xt, xt]).astype(dtype), jnp.concatenate([t, t])
        without, given = jnp.split(apply(params, *twice, None, None, context).astype(xt.dtype), 2)
        return without + guidance * (given - without)

    return predict


class Painter:
    """Draws pictures of a pipeline, chunk by chunk over all devices, the whole denoising loop in one compiled call.

    One program serves all prompts, seeds, guidance scales and fractions. form: how the mid-block is bypassed, in a window
    of the steps (`unet.Bypassed`); None never bypasses it. size: height and width in pixels, by default the U-Net's own.
    Raises ValueError for a size that the networks cannot halve as often as they do.
    """

    def __init__(
        self, pipeline: Pipeline, *, steps: int | None = None, form: Form | None = None, window: Window = (0.0, 1.0),
        ramp: float | int = 0.0, size: tuple[int, int] | None = None, batch: int = 4,
    ):  # fmt: skip
        self.pipeline, self.size, self.chunk = (
            pipeline,
            size or picture_size(pipeline.unet, pipeline.vae),
            batch,
        )
        check_size(pipeline.unet, pipeline.vae, self.size)
        self.mesh = parallel.data_mesh(batch)
        self.over, self.whole = (
            NamedSharding(self.mesh, parallel.DATA),
            parallel.replicated(self.mesh),
        )
        for part in (
            "unet",
            "vae",
        ):  # where they are needed, in place of where they were read: once in memory
            pipeline.params[part] = jax.device_put(pipeline.params[part], self.whole)
        self.params, self._vae = pipeline.params["unet"], pipeline.params["vae"]
        unet: nnx.Module = pipeline.unet
        if form is not None:
            unet = Bypassed(
                pipeline.unet, 0.0, pipeline.schedule.steps, form=form, window=window, ramp=ramp
            )
            self.params = {f"unet.{name}": p for name, p in self.params.items()}
        self.form, settings = form, pipeline.sampling | ({} if steps is None else {"steps": steps})
        self._denoise = self._compile(
            unet, sampler(pipeline.schedule, pipeline.prediction, settings)
        )
        self._decode = jax.jit(self._shared(functional(pipeline.vae), 1))

    def latents(self, seeds: Sequence[int]) -> Float[np.ndarray, "picture h w c"]:
        """x_T of each seed, the same for every prompt. (PyTorch's generators give other numbers for a seed.)"""
        factor, channels = self.pipeline.vae.config.factor, self.pipeline.unet.config.in_channels
        shape = (self.size[0] // factor, self.size[1] // factor, channels)
        return np.stack(
            [np.asarray(random.normal(jax.random.key(seed), shape, jnp.float32)) for seed in seeds]
        )

    def draw(
        self, prompts: Sequence[str], latents: Float[np.ndarray, "picture h w c"], *, guidance: float | int = 7.5,
        fraction: float | int = 0.0, negative: str = "",
    ) -> Float[np.ndarray, "picture height width channel"]:  # fmt: skip
        """A picture of each prompt from the latents beside it, in [-1, 1] but for what goes beyond. negative: what it
        shall not show.

        Raises ValueError for a fraction outside 0..1, and for one above 0 where no form of bypassing was chosen.
        """
        check_fraction(fraction)
        if fraction and self.form is None:
            raise ValueError(
                "a fraction was to be bypassed by a Painter without a form; give it one of blend, channels, elements"
            )
        params = (
            self.params if self.form is None else self.params | {"fraction": jnp.float32(fraction)}
        )
        known = {text: i for i, text in enumerate(dict.fromkeys([negative, *prompts]))}
        features = np.asarray(self.pipeline.embed(list(known)))
        texts, pictures = features[[known[prompt] for prompt in prompts]], []
        for first in range(0, len(prompts), self.chunk):
            rows = np.resize(np.arange(first, min(first + self.chunk, len(prompts))), self.chunk)
            x, text, empty = (
                parallel.to_global_array(a, self.over)
                for a in (latents[rows], texts[rows], np.repeat(features[:1], self.chunk, axis=0))
            )
            x0 = self._denoise(params, x, text, empty, jnp.float32(guidance))
            images = self._decode(self._vae, x0.astype(self.pipeline.dtype))
            pictures.append(np.asarray(images, np.float32)[: len(prompts) - first])
        return np.concatenate(pictures)

    def _compile(self, unet: nnx.Module, run: Sampler) -> Callable[..., Array]:
        apply, dtype = functional(unet), self.pipeline.dtype

        def local(params: Params, x: Array, text: Array, empty: Array, guidance: Array) -> Array:
            return run(guided(apply, params, text, empty, guidance, dtype), x)

        return jax.jit(self._shared(local, 3, 1))

    def _shared(
        self, local: Callable[..., Array], split: int, whole: int = 0
    ) -> Callable[..., Array]:
        """Over all devices: the first argument on each of them, then `split` whose rows they share, and `whole` more."""
        specs = (parallel.REPLICATED, *(parallel.DATA,) * split, *(parallel.REPLICATED,) * whole)
        return jax.shard_map(
            local, mesh=self.mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False
        )
