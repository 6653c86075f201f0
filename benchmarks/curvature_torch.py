"""The peer's side of benchmarks.curvature: Lanczos by torch.func (see benchmarks/turns.py).

All points are one batch. Its jvp goes through the model anew for each product:
torch.func.linearize, which would save that, ends with a segmentation fault on this model (2.14.1).
Attention is diffusers' plain one, since the fused one has no forward derivative.
"""

import json
import sys

import numpy as np
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import AttnProcessor

from benchmarks.curvature_task import CurvatureTask
from benchmarks.torch_device import (
    DEVICE,
    allow_tf32,
    describe_device,
    release_memory,
    synchronize,
)
from benchmarks.turns import Answer, peak, serve

TASK = CurvatureTask(**json.loads(sys.argv[1]))
allow_tf32(TASK.tf32)
LARGEST: list[float] = []


def copy_input(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A hook that gives a group norm its input in row-major order."""
    # Its forward derivative is refused in any other order, which a convolution may return.
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)


def load_model() -> UNet2DModel:
    model = UNet2DModel.from_pretrained(TASK.folder, subfolder="unet")
    model = model.to(DEVICE).eval().requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_pre_hook(copy_input)
    return model


def load_images(channels: int) -> torch.Tensor:
    shape = (TASK.points, TASK.size, TASK.size, channels)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().to(DEVICE)


def lanczos(denoiser, images: torch.Tensor) -> torch.Tensor:
    """The largest Ritz value at every point; images are independent, so a product serves all."""
    torch.manual_seed(0)
    _, backward = torch.func.vjp(denoiser, images)
    start = torch.randn(len(images), images[0].numel(), device=DEVICE)
    basis = [torch.nn.functional.normalize(start)]
    alphas = []
    betas = []
    for _ in range(TASK.steps):
        v = basis[-1].view_as(images)
        _, forward = torch.func.jvp(denoiser, (images,), (v,))
        w = (0.5 * (forward + backward(v, retain_graph=True)[0])).flatten(1)
        alphas.append((w * basis[-1]).sum(1))
        # Full reorthogonalization, twice.
        for _ in range(2):
            for b in basis:
                w = w - (w * b).sum(1, keepdim=True) * b
        betas.append(w.norm(dim=1))
        basis.append(w / betas[-1][:, None])
    off_diagonal = torch.stack(betas[:-1], 1)
    tridiagonal = torch.diag_embed(torch.stack(alphas, 1))
    tridiagonal = tridiagonal + torch.diag_embed(off_diagonal, 1)
    tridiagonal = tridiagonal + torch.diag_embed(off_diagonal, -1)
    return torch.linalg.eigvalsh(tridiagonal)[:, -1]


def main() -> None:
    model = load_model()
    images = load_images(model.config.in_channels)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    sigma = float((1 - torch.cumprod(1 - betas, 0)[300]).sqrt())

    def denoiser(x):
        return x - sigma * model(x, 300, return_dict=False)[0]

    def run(count: int) -> None:
        for _ in range(count):
            LARGEST[:] = [round(float(v), 5) for v in lanczos(denoiser, images)[:3]]
        synchronize()

    def prepare() -> Answer:
        run(1)
        release_memory()
        return {}

    def describe() -> Answer:
        return {"peak_mb": peak(), "largest": LARGEST, **describe_device()}

    serve(run, TASK.points * TASK.steps, TASK.seconds, describe, prepare)


if __name__ == "__main__":
    main()
