"""PyTorch's tensors, as diffusers and transformers keep them in a folder, as the parameters of a module here, and back.

Names are the same in both; kernels are OIHW there and HWIO here, matrices are transposed.
"""

import re

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.typing import DTypeLike

from jaxdiff import files, weights
from jaxdiff.denoiser import Params, get_params

EARLY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
TABLES = re.compile(
    r"(class_embedding|time_proj|token_embedding|position_embedding)\.weight$"
)  # the same in both


def read(folder: epath.Path, safe: str, other: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of the files that `find` finds."""
    return {name: t for path in find(folder, safe, other) for name, t in weights.read(path).items()}


def find(folder: epath.Path, safe: str, other: str | None = None) -> list[epath.Path]:
    """The first weights file that is there, or its parts: safetensors before .bin, full precision before fp16.

    safe, other: the files' names without their endings, of .safetensors and of .bin (the same, by default). Raises
    ValueError where there is none, or where a part of several is missing.
    """
    other = other or safe
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.name.startswith((safe, other)) and "-of-" not in path.name
    )
    order = [f"{safe}.safetensors", f"{safe}.safetensors.index.json"]
    order += [name for name in names if ".safetensors" in name]
    order += [
        f"{other}.bin",
        f"{other}.bin.index.json",
        *(name for name in names if ".bin" in name),
    ]
    first = next((name for name in order if name in names), None)
    if first is None:
        raise ValueError(
            f"{folder} has no weights: neither {order[0]} nor {other}.bin, whole or in shards"
        )
    if not first.endswith(".json"):
        return [folder / first]
    parts = files.read_json(folder / first).get("weight_map")
    if not isinstance(parts, dict) or not all(
        isinstance(p, str) and p == epath.Path(p).name for p in parts.values()
    ):
        raise ValueError(
            f"{folder / first} has no weight_map of files beside it; get the file again"
        )
    missing = [part for part in sorted(set(parts.values())) if not (folder / part).exists()]
    if missing:
        raise ValueError(f"{folder} lacks {missing[0]}, which {first} names; get that file too")
    return [folder / part for part in sorted(set(parts.values()))]


def to_ours(
    tensors: dict[str, np.ndarray],
    module: nnx.Module,
    folder: epath.Path,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """The parameters of `module` (it may be abstract) in our layout: matrices and kernels in `dtype`, what shifts and scales in
    float32. Raises ValueError for the first tensor that does not fit.
    """
    tensors = {_today(name): tensor for name, tensor in tensors.items()}
    wanted = get_params(module)
    for word, names in (
        ("lacks", wanted.keys() - tensors.keys()),
        ("has too many tensors:", tensors.keys() - wanted),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{folder} {word} {min(names)}{more}; its config.json is of another model"
            )
    found = {name: swap(name, tensors[name]) for name in wanted}
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            expected = swap(name, np.empty(wanted[name].shape), out=True).shape
            raise ValueError(
                f"{folder} has {name} of shape {list(tensors[name].shape)}; its config.json asks for {list(expected)}"
            )
    return {
        name: jnp.asarray(value, dtype if value.ndim > 1 else jnp.float32)
        for name, value in found.items()
    }


def _today(name: str) -> str:
    """The name of an attention's matrices since 2023."""
    return re.sub(
        r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.",
        lambda m: f"{m[1]}.{EARLY_NAMES[m[2]]}.",
        name,
    )


def swap(name: str, tensor: np.ndarray, out: bool = False) -> np.ndarray:
    """Between PyTorch's layout and ours; `out` is towards PyTorch."""
    if tensor.ndim == 4:
        return tensor.transpose((3, 2, 0, 1) if out else (2, 3, 1, 0))
    return tensor.T if tensor.ndim == 2 and not TABLES.search(name) else tensor
