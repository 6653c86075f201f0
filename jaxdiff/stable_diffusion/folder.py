"""A Stable Diffusion 1 folder as diffusers writes it: its configs, networks and weights."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from jaxdiff import diffusers_scheduler, files, torch_weights
from jaxdiff.denoiser import Params
from jaxdiff.diffusers_config import CHANNELS, COMMON_RULES, check_lengths
from jaxdiff.diffusers_io import WEIGHTS
from jaxdiff.field_rules import FLAG, NULL, TEXT, Rule, check_fields, list_of, number, one_of, whole
from jaxdiff.stable_diffusion.text_encoder import TextConfig, TextEncoder
from jaxdiff.stable_diffusion.vae import VAE, VAEConfig
from jaxdiff.unet import UNet
from jaxdiff.unet_config import ConditionalConfig, UNetConfig

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
TEXT_CONFIG = "text_encoder/config.json"
UNET_CONFIG = "unet/config.json"
VAE_CONFIG = "vae/config.json"
CONFIGS = (TEXT_CONFIG, UNET_CONFIG, VAE_CONFIG)
# Names of the weights' files without their endings.
WEIGHTS_NAMES = {"text_encoder": ("model", "pytorch_model"), "unet": (WEIGHTS,), "vae": (WEIGHTS,)}
SCHEDULERS = ("PNDMScheduler", "DDIMScheduler")
# What a U-Net is for that takes more than the latents, by its number of channels.
PURPOSES = {9: "inpainting", 8: "editing an image by an instruction", 5: "images from depth"}
# Whether blocks of this type attend to the text.
HAS_ATTENTION = {
    "CrossAttnDownBlock2D": True,
    "DownBlock2D": False,
    "CrossAttnUpBlock2D": True,
    "UpBlock2D": False,
}

# Fields of UNet2DConditionModel and AutoencoderKL that are read, with diffusers' defaults.
UNET_FIELDS: Mapping[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNET_RULES: Mapping[str, Rule] = {
    **COMMON_RULES,
    "act_fn": one_of("silu"),
    "cross_attention_dim": CHANNELS,
    "attention_head_dim": CHANNELS | list_of(CHANNELS, 1, 16),
    "num_attention_heads": NULL | CHANNELS,
}
AUTOENCODER_FIELDS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
}
AUTOENCODER_RULES: Mapping[str, Rule] = {
    **COMMON_RULES,
    "act_fn": TEXT,
    "latent_channels": CHANNELS,
    "scaling_factor": number(1e-6, 1e6),
    "mid_block_add_attention": FLAG,
}
TEXT_RULES: Mapping[str, Rule] = {
    "vocab_size": whole(1, 10_000_000),
    "hidden_size": CHANNELS,
    "intermediate_size": whole(1, 1_000_000),
    "num_hidden_layers": whole(1, 64),
    "num_attention_heads": CHANNELS,
    "max_position_embeddings": whole(3, 65_536),  # its two marks and a word
    "hidden_act": TEXT,
    "layer_norm_eps": number(0, 1),
}
# Fields that must have these values: with others the model is not Stable Diffusion 1.
UNET_FIXED: Mapping[str, Any] = {
    "only_cross_attention": False,
    "transformer_layers_per_block": 1,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "use_linear_projection": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "num_class_embeds": None,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}
AUTOENCODER_FIXED: Mapping[str, Any] = {
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}

Config = TypeVar("Config", bound=UNetConfig)


def is_pipeline(folder: epath.PathLike) -> bool:
    """Whether a folder holds a Stable Diffusion pipeline of any version."""
    index = epath.Path(folder) / "model_index.json"
    return index.exists() and "StableDiffusion" in str(files.read_json(index).get("_class_name"))


def check(folder: epath.Path) -> None:
    """Check that a folder holds a complete Stable Diffusion 1 pipeline.

    Raises
    ------
    ValueError
        Where it does not; the message says what it is, or what is missing.
    """
    index = folder / "model_index.json"
    if not index.exists():
        raise ValueError(
            f"{folder} is no pipeline: it has no model_index.json; get the whole diffusers folder"
        )
    name = str(files.read_json(index).get("_class_name"))
    if name != "StableDiffusionPipeline":
        model = "Stable Diffusion XL" if name == "StableDiffusionXLPipeline" else f"a {name}"
        raise ValueError(
            f"the pipeline must be Stable Diffusion 1 (a StableDiffusionPipeline), got {model} in "
            f"{folder}; choose a folder of version 1"
        )
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} lacks its part {part}; get the whole diffusers folder")
    for part in (*CONFIGS, "scheduler/scheduler_config.json"):
        if not (folder / part).exists():
            raise ValueError(f"{folder} lacks {part}; get the whole diffusers folder")
    unet = files.read_json(folder / UNET_CONFIG)
    heads = unet.get("attention_head_dim")
    has_several_heads = isinstance(heads, list) and len(set(heads)) > 1
    # Version 2 has another U-Net and another text encoder.
    if unet.get("use_linear_projection") or has_several_heads:
        raise ValueError(
            f"the pipeline must be Stable Diffusion 1, got Stable Diffusion 2 in {folder}; choose "
            "a folder of version 1"
        )


def unet_config(raw: Mapping[str, Any], path: epath.PathLike) -> ConditionalConfig:
    """The U-Net's config from its config.json.

    Parameters
    ----------
    raw
        What config.json says.
    path
        Its path, for messages.

    Raises
    ------
    ValueError
        For a U-Net that Stable Diffusion 1 does not have; the message names the field.
    """
    fields = _read_fields(raw, UNET_FIELDS, UNET_FIXED, path)
    check_fields(fields, UNET_RULES, path)
    purpose = PURPOSES.get(fields["in_channels"])
    if purpose and fields["out_channels"] == 4:
        raise ValueError(
            f"the U-Net must take 4 channels, as for images from text, and {path} is of a model "
            f"for {purpose}, which takes {fields['in_channels']}; choose a text-to-image model"
        )
    if fields["mid_block_type"] not in ("UNetMidBlock2DCrossAttn", None):
        raise ValueError(
            f"mid_block_type must be UNetMidBlock2DCrossAttn or null, got "
            f"{fields['mid_block_type']!r} in {path}; choose another model"
        )
    down = _attention_positions(fields["down_block_types"], path)
    up = _attention_positions(fields["up_block_types"], path)
    depth = len(fields["up_block_types"])
    size = fields["sample_size"]
    # A mistake in the first folders that were published, which diffusers corrects too.
    if isinstance(size, int) and size < 64 and _is_before_0_9(raw):
        size = 64
    return _build_config(
        ConditionalConfig,
        path,
        fields,
        attention=down,
        # Up blocks are listed from the innermost level outward.
        up_attention=tuple(depth + 1 - position for position in up),
        # diffusers calls the number of heads attention_head_dim, by an early mistake.
        heads=fields["num_attention_heads"] or _equal_heads(fields["attention_head_dim"], path),
        context_features=fields["cross_attention_dim"],
        mid_block=fields["mid_block_type"] is not None,
        sample_size=tuple(size) if isinstance(size, list) else size,
        time_embedding_dim=fields["time_embedding_dim"],
        center_input_sample=fields["center_input_sample"],
        flip_sin_to_cos=fields["flip_sin_to_cos"],
        downsample_padding=fields["downsample_padding"],
        resnet_time_scale_shift=fields["resnet_time_scale_shift"],
        freq_shift=float(fields["freq_shift"]),
        mid_block_scale_factor=float(fields["mid_block_scale_factor"]),
        norm_eps=float(fields["norm_eps"]),
    )


def _equal_heads(heads: int | Sequence[int], path: epath.PathLike) -> int:
    """The number of heads, of which config.json may have one a level."""
    if isinstance(heads, int):
        return heads
    if len(set(heads)) > 1:
        raise ValueError(
            f"every level must have as many heads, got {heads} in {path}; choose another model"
        )
    return heads[0]


def vae_config(raw: Mapping[str, Any], path: epath.PathLike) -> VAEConfig:
    """The autoencoder's config from its config.json; parameters and errors as in `unet_config`."""
    fields = _read_fields(raw, AUTOENCODER_FIELDS, AUTOENCODER_FIXED, path)
    check_fields(fields, AUTOENCODER_RULES, path)
    for key, block_types in AUTOENCODER_FIELDS.items():
        if key.endswith("block_types") and set(fields[key]) != set(block_types):
            raise ValueError(
                f"{key} must be {block_types[0]} alone, got {fields[key]} in {path}; choose "
                "another model"
            )
    return _build_config(
        VAEConfig,
        path,
        fields,
        # These three are in AutoencoderKL's code, and not in its config.json.
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        latent_channels=fields["latent_channels"],
        scaling_factor=float(fields["scaling_factor"]),
        add_attention=fields["mid_block_add_attention"],
    )


def _read_fields(
    raw: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
    path: epath.PathLike,
) -> Mapping[str, Any]:
    """The fields of `defaults` from config.json, after a check of those that are fixed."""
    for key, required in fixed.items():
        value = raw.get(key, required)
        # Where the default is null, false says as well that there is no such part.
        is_absent = required is None and value is False
        if value != required and not is_absent:
            raise ValueError(
                f"{key} must be {required!r} in Stable Diffusion 1, got {value!r} in {path}; "
                "choose another model"
            )
    return {key: raw.get(key, default) for key, default in defaults.items()}


def _is_before_0_9(raw: Mapping[str, Any]) -> bool:
    """Whether a diffusers before 0.9 wrote the config."""
    version = str(raw.get("_diffusers_version", "1")).split(".")[:2]
    return [int(number) for number in version if number.isdigit()] < [0, 9]


def _attention_positions(types: Sequence[str], path: epath.PathLike) -> tuple[int, ...]:
    """The positions, from 1 on, of blocks with attention."""
    for name in types:
        if name not in HAS_ATTENTION:
            raise ValueError(
                f"a block type must be one of {', '.join(HAS_ATTENTION)}, got {name!r} in {path}; "
                "choose another model"
            )
    return tuple(i for i, name in enumerate(types, 1) if HAS_ATTENTION[name])


def _build_config(
    config_class: type[Config], path: epath.PathLike, fields: Mapping[str, Any], **more: Any
) -> Config:
    """The config with the fields that all networks share, and more."""
    check_lengths(dict(fields), path)
    try:
        return config_class(
            block_out_channels=tuple(fields["block_out_channels"]),
            in_channels=fields["in_channels"],
            out_channels=fields["out_channels"],
            layers_per_block=fields["layers_per_block"],
            norm_num_groups=fields["norm_num_groups"],
            act_fn=fields["act_fn"],
            **more,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def abstract(folder: epath.PathLike) -> tuple[TextEncoder, UNet, VAE]:
    """The three networks of a folder, with shapes in place of arrays; nothing is allocated.

    Raises
    ------
    ValueError
        Where a config.json describes a network that is not supported, or they do not fit together.
    """
    folder = epath.Path(folder)
    raw_text = files.read_json(folder / TEXT_CONFIG)
    check_fields(raw_text, TEXT_RULES, folder / TEXT_CONFIG)
    try:
        text = TextConfig.read(raw_text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / TEXT_CONFIG}: {error}") from None
    unet = unet_config(files.read_json(folder / UNET_CONFIG), folder / UNET_CONFIG)
    vae = vae_config(files.read_json(folder / VAE_CONFIG), folder / VAE_CONFIG)
    if text.hidden_size != unet.context_features or vae.latent_channels != unet.in_channels:
        raise ValueError(
            f"{folder} has parts of different models: its text encoder gives {text.hidden_size} "
            f"features and its VAE {vae.latent_channels} channels, its U-Net takes "
            f"{unet.context_features} and {unet.in_channels}; get the whole folder again"
        )
    return (
        nnx.eval_shape(lambda: TextEncoder(text, rngs=nnx.Rngs(0))),
        nnx.eval_shape(lambda: UNet(unet, rngs=nnx.Rngs(0))),
        nnx.eval_shape(lambda: VAE(vae, rngs=nnx.Rngs(0))),
    )


def weights_files(folder: epath.Path) -> list[epath.Path]:
    """The weights' files that are read, of all three networks."""
    paths = []
    for part, names in WEIGHTS_NAMES.items():
        paths += torch_weights.find_weights_files(folder / part, *names)
    return paths


def read_weights(folder: epath.PathLike, part: str, module: nnx.Module, dtype: DTypeLike) -> Params:
    """The parameters of a part; matrices and kernels in `dtype`, scales and shifts in float32."""
    path = epath.Path(folder) / part
    tensors = torch_weights.read_tensors(path, *WEIGHTS_NAMES[part])
    if part == "text_encoder":
        # Older files have the positions' numbers among the weights.
        tensors = {
            name.removeprefix("text_model."): tensor
            for name, tensor in tensors.items()
            if not name.endswith("position_ids")
        }
    return torch_weights.from_torch(tensors, module, path, dtype)


def scheduler(folder: epath.PathLike) -> dict[str, Any]:
    """Settings of the folder's scheduler, with every field; PNDM or DDIM draws the samples.

    Raises
    ------
    ValueError
        Where it is of another kind of noise than DDPM's.
    """
    settings = diffusers_scheduler.read(folder, SCHEDULERS)
    # As in StableDiffusionPipeline, which has to read the first folders that were published, the
    # offset is 1 and nothing is clipped, whatever the file says.
    return settings | {"steps_offset": 1, "clip_sample": False}
