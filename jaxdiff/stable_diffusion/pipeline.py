"""Text to images: a Stable Diffusion 1 pipeline whose mid-block may be bypassed.

The safety checker of the published pipeline is left out: no image is blacked out.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff import diffusers_scheduler, parallel, rng
from jaxdiff.denoiser import Params, as_function
from jaxdiff.diffusion import Batch, Prediction, Schedule
from jaxdiff.samplers import Predict, SamplerSpec, run_sampler
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.text_encoder import TextEncoder
from jaxdiff.stable_diffusion.tokenizer import Tokenizer
from jaxdiff.stable_diffusion.vae import VAE
from jaxdiff.unet import UNet
from jaxdiff.unet_bypass import BypassedUNet, Form, check_fraction

Window = tuple[float | int, float | int]

DEFAULT_SAMPLE_SIZE = 64  # latents on a side, where the U-Net's config has no sample_size


def compute_dtype() -> DTypeLike:
    """bfloat16 on accelerators, float32 on a CPU, which has no fast products in bfloat16."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The parts of a Stable Diffusion pipeline.

    Parameters
    ----------
    tokenizer
        Text to tokens.
    text_encoder, unet, vae
        The networks without their arrays.
    params
        The networks' parameters, by the part's name.
    schedule, prediction
        Noise schedule and kind of prediction of the U-Net.
    sampler
        The sampler that the folder's scheduler asks for.
    embeddings
        Texts that have been embedded.
    """

    tokenizer: Tokenizer
    text_encoder: TextEncoder
    unet: UNet
    vae: VAE
    params: dict[str, Params]
    schedule: Schedule
    prediction: Prediction
    sampler: SamplerSpec
    embeddings: dict[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: epath.PathLike, dtype: DTypeLike | None = None) -> "Pipeline":
        """Load a diffusers folder of Stable Diffusion 1.x, or of a fine-tune of it.

        Parameters
        ----------
        folder
            Its weights are .safetensors or .bin files, in full or half precision.
        dtype
            Type of matrices and kernels, `compute_dtype()` by default.

        Raises
        ------
        ValueError
            For another model (2.x, XL), a missing part, and a setting that is not supported.
        """
        folder = epath.Path(folder)
        folders.check(folder)
        text_encoder, unet, vae = folders.abstract(folder)
        scheduler = folders.scheduler(folder)
        length = text_encoder.config.max_position_embeddings
        tokenizer = Tokenizer.load(folder / "tokenizer", length)
        num_tokens = tokenizer.num_tokens
        num_embeddings = text_encoder.config.vocab_size
        # Of a textual inversion whose tokens are missing, a prompt would draw something else.
        if num_tokens != num_embeddings:
            raise ValueError(
                f"{folder}: its tokenizer must have as many tokens as its text encoder has rows, "
                f"got {num_tokens} and {num_embeddings}; get the whole folder again, "
                "added_tokens.json and tokenizer_config.json too"
            )
        modules = {"text_encoder": text_encoder, "unet": unet, "vae": vae}
        dtype = dtype or compute_dtype()
        return cls(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            vae=vae,
            params={
                part: folders.read_weights(folder, part, module, dtype)
                for part, module in modules.items()
            },
            schedule=diffusers_scheduler.build_schedule(scheduler),
            prediction=diffusers_scheduler.get_prediction(scheduler),
            sampler=SamplerSpec.from_settings(diffusers_scheduler.sampler_settings(scheduler)),
        )

    @property
    def dtype(self) -> DTypeLike:
        """In which the networks compute."""
        return self.params["unet"]["conv_in.weight"].dtype

    def embed(self, texts: Sequence[str]) -> Float[Array, "text token feature"]:
        """What the U-Net attends to, for each text."""
        encode = _compile_text_encoder(self.text_encoder)
        # One text at a time, so that its bits do not depend on the others.
        for text in texts:
            if text not in self.embeddings:
                tokens = jnp.asarray(self.tokenizer([text]))
                self.embeddings[text] = encode(self.params["text_encoder"], tokens)
        return jnp.concatenate([self.embeddings[text] for text in texts])


# Compiled once for all prompts of a pipeline.
@functools.lru_cache(maxsize=2)
def _compile_text_encoder(encoder: TextEncoder) -> Callable[..., Array]:
    return jax.jit(as_function(encoder))


def image_size(unet: UNet, vae: VAE) -> tuple[int, int]:
    """Height and width in pixels of the images that the U-Net was trained for."""
    size = unet.config.sample_size or DEFAULT_SAMPLE_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return height * vae.config.factor, width * vae.config.factor


def check_size(unet: UNet, vae: VAE, size: tuple[int, int]) -> None:
    """Check a height and a width in pixels.

    Raises
    ------
    ValueError
        Where the networks cannot halve them as often as they do.
    """
    factor = vae.config.factor
    for side in size:
        if side % factor:
            raise ValueError(
                f"the sides of an image must be multiples of {factor} px, got {side}; choose a "
                "multiple"
            )
        unet.config.check_image_size(side // factor)


def guided(
    apply: Callable[..., Array],
    params: Params,
    text: Array,
    empty: Array,
    guidance: Array,
    dtype: DTypeLike,
) -> Predict:
    """Prediction by classifier-free guidance: without + guidance (with - without the text).

    Guidance 1 is the conditional model alone.

    References
    ----------
    Ho & Salimans 2022, "Classifier-Free Diffusion Guidance".
    """
    context = jnp.concatenate([empty, text]).astype(dtype)

    def predict(xt: Batch, t: Array) -> Batch:
        # One call of the network predicts both.
        xt_twice = jnp.concatenate([xt, xt]).astype(dtype)
        t_twice = jnp.concatenate([t, t])
        output = apply(params, xt_twice, t_twice, None, None, context)
        unconditional, conditional = jnp.split(output.astype(xt.dtype), 2)
        return unconditional + guidance * (conditional - unconditional)

    return predict


class TextToImagePipeline:
    """Draws images from prompts, in batches over all devices.

    The whole denoising loop is one compiled call, and one program serves all prompts, seeds,
    guidance scales and fractions.

    Parameters
    ----------
    pipeline
        Its parameters are moved to the devices.
    steps
        Sampling steps, by default the folder's.
    form
        How the mid-block is bypassed (`unet_bypass.BypassedUNet`); None never bypasses it.
    window, ramp
        The part of the chain in which it is bypassed.
    size
        Height and width in pixels, by default the U-Net's.
    batch
        Images drawn at once.

    Raises
    ------
    ValueError
        For a size that the networks cannot halve as often as they do.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        steps: int | None = None,
        form: Form | None = None,
        window: Window = (0.0, 1.0),
        ramp: float | int = 0.0,
        size: tuple[int, int] | None = None,
        batch: int = 4,
    ):
        self.pipeline = pipeline
        self.form = form
        self.size = size or image_size(pipeline.unet, pipeline.vae)
        check_size(pipeline.unet, pipeline.vae, self.size)
        self._batch = batch
        self._mesh = parallel.data_mesh(batch)
        self._sharding = NamedSharding(self._mesh, parallel.DATA)
        # The pipeline's own arrays are replaced, so that they are in memory once.
        for part in ("unet", "vae"):
            replicated = parallel.replicated(self._mesh)
            pipeline.params[part] = jax.device_put(pipeline.params[part], replicated)
        self._params = pipeline.params["unet"]
        self._vae_params = pipeline.params["vae"]
        unet: UNet | BypassedUNet = pipeline.unet
        if form is not None:
            train_steps = pipeline.schedule.steps
            unet = BypassedUNet(
                pipeline.unet, 0.0, train_steps, form=form, window=window, ramp=ramp
            )
            # The U-Net is an attribute of BypassedUNet, whose parameters have its name in front.
            self._params = {f"unet.{name}": array for name, array in self._params.items()}
        spec = pipeline.sampler
        if steps is not None:
            spec = dataclasses.replace(spec, steps=steps)
        self._denoise = self._compile_denoising(unet, spec)
        self._decode = self._compile(as_function(pipeline.vae), num_split=1)

    def latents(self, seeds: Sequence[int]) -> Float[np.ndarray, "image h w c"]:
        """x_T of each seed, the same for every prompt.

        PyTorch's generators give other numbers for a seed.
        """
        factor = self.pipeline.vae.config.factor
        channels = self.pipeline.unet.config.in_channels
        shape = (self.size[0] // factor, self.size[1] // factor, channels)
        noise = [rng.normal(jax.random.key(seed), shape, jnp.float32) for seed in seeds]
        return np.stack([np.asarray(array) for array in noise])

    def __call__(
        self,
        prompts: Sequence[str],
        latents: Float[np.ndarray, "image h w c"],
        *,
        guidance: float | int = 7.5,
        fraction: float | int = 0.0,
        negative: str = "",
    ) -> Float[np.ndarray, "image height width channel"]:
        """Draw an image of each prompt.

        Parameters
        ----------
        prompts
            One text an image.
        latents
            x_T of each image, as `latents` gives them.
        guidance
            Scale of classifier-free guidance.
        fraction
            Fraction of the mid-block that is bypassed, 0 to 1.
        negative
            What the images shall not show.

        Returns
        -------
        numpy.ndarray
            Images in [-1, 1], not clipped.

        Raises
        ------
        ValueError
            For a fraction outside 0 to 1, and for one above 0 where `form` is None.
        """
        params = self._bypassed_params(fraction)
        # Each text is embedded once; the negative prompt is the first.
        texts = list(dict.fromkeys([negative, *prompts]))
        embeddings = np.asarray(self.pipeline.embed(texts))
        prompt_embeddings = embeddings[[texts.index(prompt) for prompt in prompts]]
        negatives = np.repeat(embeddings[:1], self._batch, axis=0)
        images = []
        for first in range(0, len(prompts), self._batch):
            end = min(first + self._batch, len(prompts))
            # The last batch is filled up by its own images, so that one program serves all.
            rows = np.resize(np.arange(first, end), self._batch)
            inputs = [
                parallel.to_global_array(array, self._sharding)
                for array in (latents[rows], prompt_embeddings[rows], negatives)
            ]
            x0 = self._denoise(params, *inputs, jnp.float32(guidance))
            decoded = self._decode(self._vae_params, x0.astype(self.pipeline.dtype))
            images.append(np.asarray(decoded, np.float32)[: end - first])
        return np.concatenate(images)

    def _bypassed_params(self, fraction: float | int) -> Params:
        """The U-Net's parameters, with the fraction that is bypassed."""
        check_fraction(fraction)
        if self.form is not None:
            return self._params | {"fraction": jnp.float32(fraction)}
        if fraction:
            raise ValueError(
                "a TextToImagePipeline needs a form to bypass a fraction of the mid-block, got "
                "none; give it one of blend, channels, elements"
            )
        return self._params

    def _compile_denoising(self, unet: nnx.Module, spec: SamplerSpec) -> Callable[..., Array]:
        apply = as_function(unet)
        dtype = self.pipeline.dtype
        schedule = self.pipeline.schedule
        method = spec.build(self.pipeline.prediction)

        def denoise(params: Params, x: Array, text: Array, empty: Array, guidance: Array) -> Array:
            predict = guided(apply, params, text, empty, guidance, dtype)
            # The schedulers that are read draw no noise.
            unused_keys = jax.random.split(jax.random.key(0), len(x))
            return run_sampler(method, predict, schedule, x, keys=unused_keys, steps=spec.steps)

        return self._compile(denoise, num_split=3, num_replicated=1)

    def _compile(
        self, function: Callable[..., Array], num_split: int, num_replicated: int = 0
    ) -> Callable[..., Array]:
        """Compile over the mesh: replicated parameters, then arguments that are split by rows."""
        split = (parallel.DATA,) * num_split
        specs = (parallel.REPLICATED, *split, *(parallel.REPLICATED,) * num_replicated)
        return jax.jit(parallel.shard_map(function, self._mesh, specs))
