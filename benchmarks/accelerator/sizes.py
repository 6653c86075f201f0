"""How large what is measured is, on an accelerator and where a CPU only tries the command."""

import dataclasses

from jaxdiff.unet_config import TABLE_A, UNetConfig


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of everything that is measured.

    Parameters
    ----------
    batch, pixels
        Images of a train or sampling step, and their pixels on a side.
    steps_per_call
        K, train steps of a long call.
    seconds, turns
        Length of a turn, and turns of each worker.
    product, copy
        Rows of the matrices that are multiplied; float32 numbers that are copied.
    queries, references, dimension
        Of the search for nearest neighbors.
    images
        That LPIPS is taken of.
    points, probed_pixels, products
        Images of the probe, their pixels on a side, and products of a run.
    checked, checked_pixels
        Images whose outputs and gradients are compared with the CPU's.
    """

    batch: int = 256
    pixels: int = 32
    steps_per_call: int = 32
    seconds: float = 1.0
    turns: int = 3
    product: int = 8192
    copy: int = 2**30
    queries: int = 10_000
    references: int = 50_000
    dimension: int = 3072
    images: int = 10_000
    points: int = 16
    probed_pixels: int = 64
    products: int = 10
    checked: int = 4
    checked_pixels: int = 32


FULL = Sizes()
TINY = Sizes(
    batch=4,
    pixels=8,
    steps_per_call=2,
    seconds=0.3,
    turns=2,
    product=256,
    copy=2**20,
    queries=64,
    references=300,
    dimension=48,
    images=16,
    points=2,
    probed_pixels=16,
    products=2,
    checked=2,
    checked_pixels=16,
)
TINY_NETWORK = UNetConfig((8, 16), attention=(2,), norm_num_groups=4, layers_per_block=1)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker of this package is asked to do.

    Parameters
    ----------
    tiny
        Whether the sizes are a CPU's.
    folder
        Of files that workers exchange.
    tf32
        Whether a GPU rounds float32 products to TF32.
    deterministic
        Whether this process was started with deterministic operations.
    """

    tiny: bool
    folder: str = ""
    tf32: bool = False
    deterministic: bool = False

    @property
    def sizes(self) -> Sizes:
        return TINY if self.tiny else FULL


def build_config(name: str, tiny: bool) -> UNetConfig:
    """A row of Table A; the same small U-Net for every name where it is tiny."""
    return TINY_NETWORK if tiny else TABLE_A[name]
