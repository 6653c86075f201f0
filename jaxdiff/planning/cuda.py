"""NVIDIA GPUs that are not here: devices that the CUDA plug-in compiles for without a card."""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

# Beside this file is a description of each, for XLA; with it no card and no driver are asked.
KINDS = ("h100", "h200")
# What the extra `compiled` installs: the plug-in, its registration, NVVM with ptxas, cuDNN.
MODULES = ("jax_cuda13_plugin", "jax_plugins.xla_cuda13", "nvidia.cu13", "nvidia.cudnn")
# The cuDNN of the descriptions, as JAX numbers versions.
CUDNN_VERSION = 91200


def open_nodes(kind: str, nodes: int, gpus: int) -> Sequence[jax.Device]:
    """The devices of machines with such GPUs.

    Seen to work with Python 3.12 and jax 0.12.0.1 or 0.11.2, each with the plug-in of its version.

    Parameters
    ----------
    kind
        One of KINDS.
    nodes
        Number of machines.
    gpus
        Number of GPUs of each, joined by NVLink.

    Raises
    ------
    ValueError
        Where the plug-in or a library that it needs is not installed, or not of this JAX.
    """
    if not all(_is_installed(module) for module in MODULES):
        raise ValueError(
            f"{kind}:{gpus} is compiled for by JAX's CUDA plug-in with nvcc, NVVM and cuDNN, which "
            "must be installed, and are not all; pip install 'jaxdiff[compiled]'"
        )
    target = Path(__file__).with_name(f"{kind}.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology=f"1x{nodes}x{gpus}"
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the CUDA plug-in must be of this JAX, {jax.__version__}, and refuses {kind}:{gpus} "
            f"({reason}); pip install --upgrade 'jaxdiff[compiled]'"
        ) from None
    return topology.devices


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not
        return False


def is_absent(device: jax.Device) -> bool:
    """Whether a device is a GPU that programs can be compiled for and not run on."""
    return device.platform == "gpu" and device not in jax.local_devices()


def answer_for(device: jax.Device) -> contextlib.AbstractContextManager[None]:
    """Trace and lower for a GPU that is not here as if it were; for other devices as ever."""
    if is_absent(device):
        return answer_checks(getattr(device, "compute_capability", "9.0"))
    return contextlib.nullcontext()


@contextlib.contextmanager
def answer_checks(compute_capability: str) -> Iterator[None]:
    """Answer in place of a card what JAX asks before it traces an attention of cuDNN.

    It asks the GPUs of this machine, whatever it compiles for, for cuDNN's version and their
    compute capability. What this JAX does not ask is left alone.

    Parameters
    ----------
    compute_capability
        Compute capability of the GPU that is compiled for, as "9.0".
    """
    capability = _to_version(compute_capability)
    answers: dict[str, Any] = {
        "check_cudnn_version": _cudnn_version,
        "check_compute_capability": functools.partial(_is_at_least, capability),
        "is_cuda_compute_capability_equal": functools.partial(_is_equal, capability),
    }
    checks = _load_checks()
    originals = {name: getattr(checks, name) for name in answers if hasattr(checks, name)}
    try:
        for name in originals:
            setattr(checks, name, answers[name])
        yield
    finally:
        for name, original in originals.items():
            setattr(checks, name, original)


def _load_checks() -> Any:
    """JAX's module that asks, which is private; None in versions that have none."""
    try:
        return importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    except ImportError:
        return None


def _cudnn_version() -> int:
    return CUDNN_VERSION


def _to_version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _is_at_least(capability: tuple[int, ...], other: str) -> bool:
    return capability >= _to_version(other)


def _is_equal(capability: tuple[int, ...], other: str) -> bool:
    return capability == _to_version(other)
