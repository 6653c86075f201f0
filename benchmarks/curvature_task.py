"""What both workers of benchmarks.curvature are asked to do; no JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CurvatureTask:
    """Runs of Lanczos' method on the Jacobian of a denoiser.

    Parameters
    ----------
    folder
        A diffusers pipeline's folder.
    size
        Pixels on a side.
    points
        Images.
    steps
        Products of a run.
    seconds
        Length of a turn; 0 is a single run.
    tf32
        Whether a GPU rounds float32 products to TF32.
    """

    folder: str
    size: int
    points: int
    steps: int
    seconds: float = 0.0
    tf32: bool = False
