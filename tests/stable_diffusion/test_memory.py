"""What a step of the published networks takes, from the compiler: nothing is allocated."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxdiff.denoiser import as_function, get_params
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pipeline import guided
from jaxdiff.unet import UNet
from tests.stable_diffusion import tiny


@pytest.mark.slow
def test_a_guided_step_at_512_pixels_in_bfloat16_takes_few_gigabytes():
    """One picture, as compiled for a CPU. The latents are 64 x 64; the network is called for two, with the text and without."""
    unet = nnx.eval_shape(lambda: UNet(folders.unet_config(tiny.UNET, "unet"), rngs=nnx.Rngs(0)))

    def shape(*s, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(s, dtype)

    params = {
        n: shape(*p.shape, dtype=jnp.bfloat16 if p.ndim > 1 else jnp.float32)
        for n, p in get_params(unet).items()
    }

    def step(params, x, t, text, empty, guidance):
        return guided(as_function(unet), params, text, empty, guidance, jnp.bfloat16)(x, t)

    inputs = (
        shape(1, 64, 64, 4, dtype=jnp.float32),
        shape(1, dtype=jnp.int32),
        shape(1, 77, 768),
        shape(1, 77, 768),
    )
    analysis = (
        jax.jit(step).lower(params, *inputs, shape(dtype=jnp.float32)).compile().memory_analysis()
    )
    taken = {"arguments": analysis.argument_size_in_bytes, "temporary": analysis.temp_size_in_bytes}
    print("MB:", {name: round(size / 1e6, 1) for name, size in taken.items()})
    assert taken["arguments"] < 1.75e9  # 859,520,964 parameters of two bytes
    assert sum(taken.values()) < 6e9  # 4.2 GB by JAX 0.12.0.1, 5.4 by 0.10.1
