"""What both workers of benchmarks.train and benchmarks.sample are asked to do; no JAX."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class UNetTask:
    """A timed operation on a U-Net.

    Parameters
    ----------
    what
        The operation: a train step or a step of DDIM.
    folder
        A diffusers pipeline's folder.
    batch
        Images a step.
    dtype
        Of the activations.
    steps_per_call
        Our train steps in one compiled call.
    compile
        Whether the peer uses torch.compile.
    seconds
        Length of a turn.
    tuned
        Whether the peer has channels_last weights and, on a GPU, a fused AdamW.
    product
        Whether the rate of a matrix product in this type is measured too.
    profile
        Folder of a profile of our train step; empty for none.
    """

    what: Literal["train", "sample"]
    folder: str
    batch: int
    dtype: Literal["float32", "bfloat16"]
    steps_per_call: int
    compile: bool
    seconds: float
    tuned: bool = False
    product: bool = False
    profile: str = ""
