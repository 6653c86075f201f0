"""A Stable Diffusion 1 pipeline's folder, as diffusers keeps it: what each part's config.json says, and its weights."""

from typing import Any

from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from jaxdiff import diffusers_scheduler, files, torch_weights
from jaxdiff.diffusers_config import check_lengths
from jaxdiff.diffusers_io import WEIGHTS
from jaxdiff.stable_diffusion.text_encoder import TextConfig, TextEncoder
from jaxdiff.stable_diffusion.vae import VAE, VAEConfig
from jaxdiff.unet import Params, UNet
from jaxdiff.unet_config import ConditionalConfig

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
CONFIGS = tuple(f"{part}/config.json" for part in ("text_encoder", "unet", "vae"))
FILES = {
    "text_encoder": ("model", "pytorch_model"),
    "unet": (WEIGHTS,),
    "vae": (WEIGHTS,),
}  # the weights' names
SCHEDULERS = ("PNDMScheduler", "DDIMScheduler")
CROSS = {
    "CrossAttnDownBlock2D": True,
    "DownBlock2D": False,
    "CrossAttnUpBlock2D": True,
    "UpBlock2D": False,
}
# Fields of UNet2DConditionModel and AutoencoderKL that change something: those read, with their defaults, ...
UNET: dict[str, Any] = {
    "sample_size": None, "in_channels": 4, "out_channels": 4, "center_input_sample": False, "flip_sin_to_cos": True,
    "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn", "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2, "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_num_groups": 32,
    "norm_eps": 1e-5, "cross_attention_dim": 1280, "attention_head_dim": 8, "num_attention_heads": None,
    "resnet_time_scale_shift": "default", "time_embedding_dim": None,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu",
    "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215, "mid_block_add_attention": True,
    "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
}  # fmt: skip
# ... and those that must have their defaults: with others the model is another.
UNET_FIXED: dict[str, Any] = {
    "only_cross_attention": False, "transformer_layers_per_block": 1, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "dual_cross_attention": False, "use_linear_projection": False, "class_embed_type": None, "addition_embed_type": None,
    "num_class_embeds": None, "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional", "time_embedding_act_fn": None, "timestep_post_act": None,
    "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3, "attention_type": "default",
    "mid_block_only_cross_attention": None, "cross_attention_norm": None,
}  # fmt: skip
AUTOENCODER_FIXED: dict[str, Any] = {
    "shift_factor": None, "latents_mean": None, "latents_std": None, "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip


def is_pipeline(folder: epath.PathLike) -> bool:
    """Whether it holds a Stable Diffusion pipeline, of whatever version."""
    index = epath.Path(folder) / "model_index.json"
    return index.exists() and "StableDiffusion" in str(files.read_json(index).get("_class_name"))


def check(folder: epath.Path) -> None:
    """Raise ValueError, saying what it is, unless the folder holds a whole Stable Diffusion 1 pipeline."""
    index = folder / "model_index.json"
    if not index.exists():
        raise ValueError(
            f"{folder} is no pipeline: it has no model_index.json; get the whole diffusers folder"
        )
    name = files.read_json(index).get("_class_name")
    if name != "StableDiffusionPipeline":
        called = {"StableDiffusionXLPipeline": "Stable Diffusion XL"}.get(str(name), f"a {name}")
        raise ValueError(
            f"{folder} is {called}; Stable Diffusion 1 (a StableDiffusionPipeline) is what is read here"
        )
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} lacks its part {part}; get the whole diffusers folder")
    for part in (*CONFIGS, "scheduler/scheduler_config.json"):
        if not (folder / part).exists():
            raise ValueError(f"{folder} lacks {part}; get the whole diffusers folder")
    unet = files.read_json(folder / CONFIGS[1])
    heads = unet.get("attention_head_dim")
    if unet.get("use_linear_projection") or (isinstance(heads, list) and len(set(heads)) > 1):
        raise ValueError(
            f"{folder} is Stable Diffusion 2, whose U-Net and text encoder are others; 1.x is what is read here"
        )


def unet_config(raw: dict[str, Any], path: epath.PathLike) -> ConditionalConfig:
    """From the U-Net's config.json. Raises ValueError, naming the field, for a U-Net that Stable Diffusion 1 does not have."""
    field = _fields(raw, UNET, UNET_FIXED, path)
    if field["mid_block_type"] not in ("UNetMidBlock2DCrossAttn", None):
        raise ValueError(
            f"{path} sets mid_block_type to {field['mid_block_type']!r}; UNetMidBlock2DCrossAttn is known here"
        )
    # attention_head_dim is the number of heads, by an early mistake
    heads = field["num_attention_heads"] or field["attention_head_dim"]
    down, up = (_attended(field[key], path) for key in ("down_block_types", "up_block_types"))
    size, version = field["sample_size"], str(raw.get("_diffusers_version", "1")).split(".")[:2]
    if isinstance(size, int) and size < 64 and [int(v) for v in version if v.isdigit()] < [0, 9]:
        size = (
            64  # a mistake in the first folders that were published, which diffusers corrects too
        )
    return _made(
        ConditionalConfig, path, field, attention=down, up_attention=tuple(len(field["up_block_types"]) + 1 - a for a in up),
        heads=heads, context_features=field["cross_attention_dim"], mid_block=field["mid_block_type"] is not None,
        sample_size=tuple(size) if isinstance(size, list) else size, time_embedding_dim=field["time_embedding_dim"],
        **{key: field[key] for key in ("center_input_sample", "flip_sin_to_cos", "downsample_padding", "resnet_time_scale_shift")},
        **{key: float(field[key]) for key in ("freq_shift", "mid_block_scale_factor", "norm_eps")},
    )  # fmt: skip


def vae_config(raw: dict[str, Any], path: epath.PathLike) -> VAEConfig:
    """From the autoencoder's config.json. Raises ValueError as `unet_config` does."""
    field = _fields(raw, AUTOENCODER, AUTOENCODER_FIXED, path)
    for key, known in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if set(field[key]) != {known}:
            raise ValueError(f"{path} has {field[key]} in {key}; {known} is known here")
    return _made(
        VAEConfig, path, field, norm_eps=1e-6, attention_head_dim=None, downsample_padding=0, latent_channels=field["latent_channels"],
        scaling_factor=float(field["scaling_factor"]), add_attention=field["mid_block_add_attention"],
    )  # fmt: skip


def _fields(
    raw: dict[str, Any], read: dict[str, Any], fixed: dict[str, Any], path: epath.PathLike
) -> dict[str, Any]:
    for key, value in fixed.items():
        if raw.get(key, value) != value and not (value is None and raw[key] is False):
            raise ValueError(f"{path} sets {key} to {raw[key]!r}; Stable Diffusion 1 has {value!r}")
    return read | {key: raw[key] for key in read if key in raw}


def _attended(types: list[str], path: epath.PathLike) -> tuple[int, ...]:
    """The places, from 1 on, of blocks with attention."""
    unknown = [name for name in types if name not in CROSS]
    if unknown:
        raise ValueError(
            f"{path} has the block type {unknown[0]!r}; {', '.join(CROSS)} are known here"
        )
    return tuple(i for i, name in enumerate(types, 1) if CROSS[name])


def _made(kind: Any, path: epath.PathLike, field: dict[str, Any], **more: Any) -> Any:
    check_lengths(field, path)
    same = {
        key: field[key]
        for key in ("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "act_fn")
    }
    try:
        return kind(block_out_channels=tuple(field["block_out_channels"]), **same, **more)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def abstract(folder: epath.PathLike) -> tuple[TextEncoder, UNet, VAE]:
    """The three networks that the folder's config.json files describe: shapes only, nothing allocated."""
    paths = [epath.Path(folder) / config for config in CONFIGS]
    raw = [files.read_json(path) for path in paths]
    try:
        text = TextConfig.read(raw[0])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{paths[0]}: {error}") from None
    unet, vae = unet_config(raw[1], paths[1]), vae_config(raw[2], paths[2])
    if text.hidden_size != unet.context_features or vae.latent_channels != unet.in_channels:
        raise ValueError(
            f"{folder} has parts of different models: its text encoder gives {text.hidden_size} features and its VAE "
            f"{vae.latent_channels} channels, its U-Net takes {unet.context_features} and {unet.in_channels}"
        )
    every = ((TextEncoder, text), (UNet, unet), (VAE, vae))
    made = [
        nnx.eval_shape(lambda kind=kind, config=config: kind(config, rngs=nnx.Rngs(0)))
        for kind, config in every
    ]
    return made[0], made[1], made[2]


def weights_files(folder: epath.Path) -> list[epath.Path]:
    """Those that are read, of all three networks."""
    return [
        path
        for part, names in FILES.items()
        for path in torch_weights.find_weights_files(folder / part, *names)
    ]


def read_weights(folder: epath.PathLike, part: str, module: nnx.Module, dtype: DTypeLike) -> Params:
    """The parameters of one part; matrices and kernels in `dtype`, what scales and shifts in float32."""
    place = epath.Path(folder) / part
    tensors = torch_weights.read_tensors(place, *FILES[part])
    if part == "text_encoder":
        tensors = {
            name.removeprefix("text_model."): t
            for name, t in tensors.items()
            if not name.endswith("position_ids")
        }
    return torch_weights.from_torch(tensors, module, place, dtype)


def scheduler(folder: epath.PathLike) -> dict[str, Any]:
    """Its settings, with every field. Raises ValueError where it is neither PNDM's nor DDIM's.

    As StableDiffusionPipeline does, which has to read the first folders that were published, the steps' offset is 1 and
    nothing is clipped, whatever the file says or leaves out.
    """
    return diffusers_scheduler.read(folder, SCHEDULERS) | {"steps_offset": 1, "clip_sample": False}
