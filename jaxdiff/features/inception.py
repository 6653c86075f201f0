"""Inception-v3 as FID uses it: the 2,048 features after the last pooling (Heusel et al. 2017).

It is the network of 2015 whose weights pytorch-fid and torch-fidelity distribute, which differs
from torchvision's: average pooling does not count the padding, and the last block pools by the
maximum.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from jaxdiff import weights
from jaxdiff.features.layers import (
    Images,
    Params,
    average_pool,
    conv,
    fold_batch_norms,
    max_pool,
    resize,
)

BATCH_NORM_EPS = 1e-3  # with which it was trained; PyTorch's default is 1e-5
FID_CLASSES = 1008  # torchvision's network has 1,000


def load(path: epath.PathLike) -> Params:
    """Load the parameters from a weights file.

    `path` is pytorch-fid's or torch-fidelity's file (.pth), or the same names in .safetensors or
    .npz.

    Raises
    ------
    ValueError
        Where the file is not such a network.
    """
    state = weights.read(path)
    if not _is_fid_inception(state):
        raise ValueError(
            f"{path} is not FID's Inception-v3; give pt_inception-2015-12-05-*.pth or "
            "torch-fidelity's file"
        )
    names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
    pairs = {name: (f"{name}.conv", f"{name}.bn") for name in names}
    return fold_batch_norms(state, pairs, BATCH_NORM_EPS)


def _is_fid_inception(state: Mapping[str, np.ndarray]) -> bool:
    last = "Mixed_7c.branch1x1"
    # A file may lack the head, which features do not need.
    head = state.get("fc.weight")
    has_head = head is None or len(head) == FID_CLASSES
    return f"{last}.conv.weight" in state and f"{last}.bn.weight" in state and has_head


def features(
    params: Params, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch 2048"]:
    """Features of RGB images of any size.

    They are resized to 299 x 299 on the grid of FID's first implementation.
    """
    # From 0..255 to [-1, 1) by torch-fidelity's constants.
    x = (resize(images.astype(jnp.float32), 299, half_pixel=False) - 128.0) / 128.0
    x = _stem(params, x)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        towers = [["branch1x1"], ["branch5x5_1", "branch5x5_2"], _numbered("branch3x3dbl", 3)]
        x = _block(params, name, x, towers)
    x = _reduction(params, "Mixed_6a", x, [["branch3x3"], _numbered("branch3x3dbl", 3)])
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        towers = [["branch1x1"], _numbered("branch7x7", 3), _numbered("branch7x7dbl", 5)]
        x = _block(params, name, x, towers)
    x = _reduction(params, "Mixed_7a", x, [_numbered("branch3x3", 2), _numbered("branch7x7x3", 4)])
    x = _last_block(params, "Mixed_7b", x, average_pool(x, 3))
    # the maximum is peculiar to FID's network
    x = _last_block(params, "Mixed_7c", x, max_pool(x, 3, 1, "SAME"))
    return x.mean(axis=(1, 2))


def _stem(params: Params, x: Images) -> Images:
    x = _conv(params, "Conv2d_1a_3x3", x, stride=2, padding="VALID")
    x = _conv(params, "Conv2d_2a_3x3", x, padding="VALID")
    x = max_pool(_conv(params, "Conv2d_2b_3x3", x), 3, 2)
    x = _conv(params, "Conv2d_3b_1x1", x)
    return max_pool(_conv(params, "Conv2d_4a_3x3", x, padding="VALID"), 3, 2)


def _conv(
    params: Params, name: str, x: Images, *, stride: int = 1, padding: str = "SAME"
) -> Images:
    return jax.nn.relu(conv(params, name, x, stride=stride, padding=padding))


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(1, count + 1)]


def _tower(params: Params, block: str, x: Images, names: Sequence[str]) -> Images:
    """Convolutions one after another."""
    for name in names:
        x = _conv(params, f"{block}.{name}", x)
    return x


def _block(params: Params, block: str, x: Images, towers: Sequence[Sequence[str]]) -> Images:
    """Towers of convolutions side by side, and a convolution after an average pooling."""
    # In the published order: the weights of the next block number their channels by it.
    outputs = [_tower(params, block, x, names) for names in towers]
    outputs.append(_conv(params, f"{block}.branch_pool", average_pool(x, 3)))
    return jnp.concatenate(outputs, axis=-1)


def _reduction(params: Params, block: str, x: Images, towers: Sequence[Sequence[str]]) -> Images:
    """Towers whose last convolution has stride 2, and a maximum pooling."""
    outputs = []
    for names in towers:
        y = _tower(params, block, x, names[:-1])
        outputs.append(_conv(params, f"{block}.{names[-1]}", y, stride=2, padding="VALID"))
    outputs.append(max_pool(x, 3, 2))
    return jnp.concatenate(outputs, axis=-1)


def _last_block(params: Params, block: str, x: Images, pooled: Images) -> Images:
    """Two of the towers end in a 1x3 and a 3x1 convolution side by side."""
    single = _tower(params, block, x, ["branch3x3_1"])
    double = _tower(params, block, x, ["branch3x3dbl_1", "branch3x3dbl_2"])
    outputs = [_tower(params, block, x, ["branch1x1"])]
    outputs += [_tower(params, block, single, [f"branch3x3_2{side}"]) for side in "ab"]
    outputs += [_tower(params, block, double, [f"branch3x3dbl_3{side}"]) for side in "ab"]
    outputs.append(_tower(params, block, pooled, ["branch_pool"]))
    return jnp.concatenate(outputs, axis=-1)
