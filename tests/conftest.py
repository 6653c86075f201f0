"""Eight CPU devices, compiled without LLVM's slow passes; shapes and types checked; no silent rank promotion."""

import os

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600 --xla_cpu_collective_timeout_seconds=600"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # two processes on two cores: its threads would wait for each other

from jaxtyping import install_import_hook

install_import_hook("jaxdiff", "beartype.beartype")

import jax
import pytest
from flax import nnx

jax.config.update("jax_numpy_rank_promotion", "raise")

from jaxdiff.unet import UNet, UNetConfig

ONE = UNetConfig(
    (4,), norm_num_groups=2, layers_per_block=1, mid_block=False, in_channels=1, out_channels=1
)
TINY = UNetConfig(
    (8, 16), attention=(2,), norm_num_groups=4, layers_per_block=1, in_channels=1, out_channels=1
)


@pytest.fixture(scope="session")
def tiny() -> UNet:
    """The small U-Net that the suite shares: depth 2, attention at level 2, grey."""
    return UNet(TINY, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def one() -> UNet:
    """The least U-Net that there is, for tests of what is done with one: it compiles in a third of the time."""
    return UNet(ONE, rngs=nnx.Rngs(0))
