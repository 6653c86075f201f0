"""PyTorch's tensors, as diffusers and transformers save them, as parameters here, and back.

Names are the same in both; kernels are OIHW there and HWIO here, and matrices are transposed.
"""

import re
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from jaxdiff import files, weights
from jaxdiff.denoiser import Params, get_params

# Attention's matrices were named so before 2023.
LEGACY_ATTENTION_KEYS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LEGACY_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.")
# What torch.compile and DataParallel put before names.
WRAPPERS = re.compile(r"(^|\.)_orig_mod\.|^module\.")
LORA = re.compile(r"lora_(A|B|up|down)\b|_lora\.(up|down)\.|^lora_|\.lora\.")
LORA_FILES = ("pytorch_lora_weights", "adapter_model", "adapter_config")
SINGLE_FILE_PREFIX = "model.diffusion_model."  # of the U-Net in a checkpoint in one file
MERGE_LORA = (
    "load them in diffusers into the model that they change, call fuse_lora() and "
    "unload_lora_weights(), and give the folder that save_pretrained writes"
)
SINGLE_FILE = (
    "is a checkpoint in one file, and a diffusers folder is read; load it in diffusers with "
    "StableDiffusionPipeline.from_single_file and give the folder that save_pretrained writes"
)
# Embedding tables [entry, channel] have the same layout in both.
EMBEDDINGS = re.compile(r"(class_embedding|time_proj|token_embedding|position_embedding)\.weight$")


def read_tensors(
    folder: epath.Path, name: str, bin_name: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of the files that `find_weights_files` finds."""
    tensors: dict[str, np.ndarray] = {}
    for path in find_weights_files(folder, name, bin_name):
        tensors |= weights.read(path)
    return tensors


def find_weights_files(
    folder: epath.Path, name: str, bin_name: str | None = None
) -> list[epath.Path]:
    """The weights file of a folder, or the shards of it.

    Full precision comes before variants such as fp16, and safetensors before .bin.

    Parameters
    ----------
    folder
        The network's folder.
    name
        Name of a .safetensors file without its ending.
    bin_name
        Name of a .bin file without its ending; by default the same.

    Raises
    ------
    ValueError
        Where there is none, or a shard is missing.
    """
    chosen = choose_weights_file([path.name for path in folder.iterdir()], name, bin_name)
    if chosen is None:
        check_no_lora_files(folder)
        raise ValueError(
            f"{folder} has no weights: neither {name}.safetensors nor {bin_name or name}.bin, in "
            "one file or in shards"
        )
    if not chosen.endswith(".json"):
        return [folder / chosen]
    shards = read_index(folder, chosen)
    for shard in shards:
        if not (folder / shard).exists():
            raise ValueError(f"{folder} lacks {shard}, which {chosen} names; get that file too")
    return [folder / shard for shard in shards]


def choose_weights_file(names: Iterable[str], name: str, bin_name: str | None = None) -> str | None:
    """The file of weights among a folder's, or the index of its shards.

    Parameters
    ----------
    names
        Names of the folder's files.
    name, bin_name
        As in `find_weights_files`, which says what comes before what.

    Returns
    -------
    chosen
        None where there is none.
    """
    bin_name = bin_name or name
    # Shards are found by their index; the rest are variants such as NAME.fp16.safetensors.
    variants = sorted(
        file for file in names if file.startswith((name, bin_name)) and "-of-" not in file
    )
    candidates = [
        f"{name}.safetensors",
        f"{name}.safetensors.index.json",
        f"{bin_name}.bin",
        f"{bin_name}.bin.index.json",
        *(variant for variant in variants if ".safetensors" in variant),
        *(variant for variant in variants if ".bin" in variant),
    ]
    return next((candidate for candidate in candidates if candidate in variants), None)


def read_index(folder: epath.Path, index: str) -> list[str]:
    """The names of the shards that an index names.

    Raises
    ------
    ValueError
        Where it names none, or files that are not beside it.
    """
    shards = files.read_json(folder / index).get("weight_map")
    # A shard must lie beside its index: a path would let the index name any file.
    if not isinstance(shards, dict) or not all(_is_file_name(name) for name in shards.values()):
        raise ValueError(
            f"{folder / index} has no weight_map of files beside it; get the file again"
        )
    return sorted(set(shards.values()))


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name == epath.Path(name).name


def from_torch(
    tensors: Mapping[str, np.ndarray],
    module: nnx.Module,
    folder: epath.Path,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """The parameters of a module from PyTorch's tensors.

    Parameters
    ----------
    tensors
        Tensors by name.
    module
        The module; it may be abstract.
    folder
        Where the tensors are from, for error messages.
    dtype
        Type of matrices and kernels; what shifts and scales is float32.

    Raises
    ------
    ValueError
        For the first tensor that is missing, unexpected, of another shape or no floating point.
    """
    _check_kind(tensors, folder)
    # Folders of before 2023 are read as if they were of today.
    tensors = {_modern_name(name): tensor for name, tensor in tensors.items()}
    shapes = {name: value.shape for name, value in get_params(module).items()}
    _check_names("lacks", shapes.keys() - tensors.keys(), folder)
    _check_names("has too many tensors:", tensors.keys() - shapes.keys(), folder)
    params: Params = {}
    for name, shape in shapes.items():
        value = convert_layout(name, tensors[name])
        # The sentence has PyTorch's layout, since that is what the file shows.
        if value.shape != shape:
            # A view, since a wrong config.json may ask for more than the memory.
            array = np.broadcast_to(np.float32(0), shape)
            expected = convert_layout(name, array, to_torch=True).shape
            raise ValueError(
                f"{folder} has {name} of shape {list(tensors[name].shape)}; its config.json asks "
                f"for {list(expected)}"
            )
        if not weights.is_floating(value.dtype):
            raise ValueError(
                f"{folder} has {name} of type {value.dtype}, and weights must be floating point; "
                "get the model in float32, float16 or bfloat16"
            )
        params[name] = jnp.asarray(value, dtype if value.ndim > 1 else jnp.float32)
    return params


def check_no_lora_files(folder: epath.Path) -> None:
    """Raise ValueError for a folder with LoRA weights, by the names that their tools give them."""
    names = [path.name for path in folder.iterdir() if path.name.startswith(LORA_FILES)]
    if names:
        raise ValueError(
            f"{folder} holds LoRA weights ({min(names)}), which only change a model; {MERGE_LORA}"
        )


def _check_kind(names: Iterable[str], folder: epath.Path) -> None:
    """Refuse tensors that belong to no network of diffusers."""
    for name in names:
        if LORA.search(name):
            raise ValueError(
                f"{folder} holds LoRA weights ({name}), which only change a model; {MERGE_LORA}"
            )
        if name.startswith(SINGLE_FILE_PREFIX):
            raise ValueError(f"the weights file in {folder} {SINGLE_FILE}")


def _check_names(verb: str, names: set[str], folder: epath.Path) -> None:
    if not names:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise ValueError(f"{folder} {verb} {min(names)}{more}; its config.json is of another model")


def _modern_name(name: str) -> str:
    """A tensor's name since 2023, without what wraps the network."""

    def rename(match: re.Match[str]) -> str:
        return f"{match[1]}.{LEGACY_ATTENTION_KEYS[match[2]]}."

    while WRAPPERS.search(name):
        name = WRAPPERS.sub(r"\1", name)
    return LEGACY_ATTENTION.sub(rename, name)


def convert_layout(name: str, tensor: np.ndarray, to_torch: bool = False) -> np.ndarray:
    """A tensor in our layout, or in PyTorch's.

    Parameters
    ----------
    name
        The tensor's name.
    tensor
        The tensor.
    to_torch
        Convert from our layout to PyTorch's instead.
    """
    if tensor.ndim == 4:
        return tensor.transpose((3, 2, 0, 1) if to_torch else (2, 3, 1, 0))
    if tensor.ndim == 2 and not EMBEDDINGS.search(name):
        return tensor.T
    return tensor
