"""The device of a worker that runs PyTorch."""

import torch

from benchmarks.turns import Answer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def allow_tf32(is_allowed: bool = True) -> None:
    """Let float32 products and convolutions run in TF32, as JAX does by default on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    torch.backends.cudnn.allow_tf32 = is_allowed


def synchronize() -> None:
    """Wait for everything that the device was asked to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def describe_device() -> Answer:
    """The device's name and, on a GPU, the peak of its memory in MB."""
    if DEVICE == "cpu":
        return {"device": "cpu"}
    peak_mb = torch.cuda.max_memory_allocated() / 1e6
    return {"device": torch.cuda.get_device_name(), "device_peak_mb": peak_mb}


def release_memory() -> None:
    """Give back what PyTorch keeps of the device's memory for later."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
