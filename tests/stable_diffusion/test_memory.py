"""Memory of a step of the published networks, from the compiler: nothing is allocated."""

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
    """One image, as compiled for a CPU.

    The latents are 64 x 64; the network is called for two, with the text and without.
    """
    unet = nnx.eval_shape(lambda: UNet(folders.unet_config(tiny.UNET, "unet"), rngs=nnx.Rngs(0)))
    params = {
        name: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16 if p.ndim > 1 else jnp.float32)
        for name, p in get_params(unet).items()
    }

    def step(params, x, t, text, empty, guidance):
        return guided(as_function(unet), params, text, empty, guidance, jnp.bfloat16)(x, t)

    x = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    text = jax.ShapeDtypeStruct((1, 77, 768), jnp.bfloat16)
    guidance = jax.ShapeDtypeStruct((), jnp.float32)
    program = jax.jit(step).lower(params, x, t, text, text, guidance).compile()
    memory = program.memory_analysis()
    arguments = memory.argument_size_in_bytes
    temporary = memory.temp_size_in_bytes
    print(f"arguments {arguments / 1e6:.1f} MB, temporary {temporary / 1e6:.1f} MB")
    assert arguments < 1.75e9  # 859,520,964 parameters of two bytes
    assert arguments + temporary < 6e9  # 4.2 GB by JAX 0.12.0.1, 5.4 by 0.10.1
