"""Table A's models are diffusers' UNet2DModel: the same weights under the same names give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.unet import TABLE_A, abstract, functional, parameters

pytestmark = pytest.mark.parity


def from_torch(name, array):
    """A tensor in our layout: convolution kernels HWIO, matrices [in, out]."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
    return jnp.asarray(array.transpose(axes))


@pytest.mark.parametrize("name", TABLE_A)
def test_diffusers_with_the_same_weights(name):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config, size = TABLE_A[name], 32
    kinds = ["Attn" if level in config.attention else "" for level in range(1, config.depth + 1)]
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        sample_size=size, block_out_channels=config.block_out_channels,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
    ).eval()  # fmt: skip
    state = {key: from_torch(key, value.numpy()) for key, value in theirs.state_dict().items()}
    shapes = parameters(abstract(config))
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in shapes.items()}
    xt, t = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32), np.array([7, 903])
    with torch.no_grad():
        wanted = theirs(torch.tensor(xt.transpose(0, 3, 1, 2)), torch.tensor(t)).sample.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(jax.jit(functional(abstract(config)))(state, xt, t), wanted, atol=1e-4, rtol=0)
