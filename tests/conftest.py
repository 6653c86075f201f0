"""Eight CPU devices, fast compilation, checked shapes and the networks that tests share.

Functions of jaxdiff check their annotations, and rank promotion raises. With JAXDIFF_ACCELERATOR=1
in the environment the tests run on whatever device is there: `-m accelerator` selects those that
compare it with definitions.
"""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

ON_ACCELERATOR = os.environ.get("JAXDIFF_ACCELERATOR") == "1"
if not ON_ACCELERATOR:
    # LLVM's slow passes are left out: the tests' time is compile time. Eight devices on two cores
    # need the collectives' time-outs raised.
    os.environ["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=8"
        " --xla_llvm_disable_expensive_passes=true"
        " --xla_backend_optimization_level=0"
        " --xla_cpu_collective_call_terminate_timeout_seconds=600"
        " --xla_cpu_collective_timeout_seconds=600"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    # What a process of this run of the tests has compiled, the others read, among them those that
    # tests start. A folder that is named outlives the run, for the next one.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxdiff-programs-")
        atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"])
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if metadata.version("jaxlib").startswith("0.10."):
        # It prints two false errors for every program that it reads (jax-ml/jax 38445).
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Of two test processes on two cores, OpenBLAS's threads would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jaxtyping

jaxtyping.install_import_hook("jaxdiff", "beartype.beartype")

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

jax.config.update("jax_numpy_rank_promotion", "raise")
if ON_ACCELERATOR:
    # The tolerances are those of float32, which accelerators round to less by default.
    jax.config.update("jax_default_matmul_precision", "highest")

from jaxdiff import source_code
from jaxdiff.unet import UNet, UNetConfig

MINIMAL_CONFIG = UNetConfig(
    (4,), norm_num_groups=2, layers_per_block=1, mid_block=False, in_channels=1, out_channels=1
)
TINY_CONFIG = UNetConfig(
    (8, 16), attention=(2,), norm_num_groups=4, layers_per_block=1, in_channels=1, out_channels=1
)


def noisy_batch(size: int = 8, channels: int = 1) -> tuple[jax.Array, jax.Array]:
    """Two noisy images and their timesteps."""
    xt = jax.random.normal(jax.random.key(1), (2, size, size, channels))
    return xt, jnp.array([3, 900])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end no process works alone on a long file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def tiny() -> UNet:
    """The small U-Net that the suite shares: depth 2, attention at level 2, gray."""
    return UNet(TINY_CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def minimal_unet() -> UNet:
    """The smallest U-Net, where any network will do: it compiles in a third of the time."""
    return UNet(MINIMAL_CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """For simulations, which call small functions 100,000 times: checks take half of their time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def edit_code(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretends, to what digests code, that the module of this name has been edited."""
    read = source_code._read_code
    edited = set()

    def edit(name: str) -> None:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        edited.add(Path(spec.origin))

    def read_edited(path: Path) -> bytes:
        return read(path) + b"edited" * (path in edited)

    monkeypatch.setattr(source_code, "_read_code", read_edited)
    return edit
