"""The peer's side of benchmarks.curvature: Lanczos by torch.func, all points in one batch (see benchmarks/turns.py).

Its jvp goes through the model anew for each product: torch.func.linearize, which would save that, ends with a segmentation fault on
this model (2.14.1). Attention is diffusers' plain one, since the fused one has no forward derivative.
"""

import json
import sys

import numpy as np
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import AttnProcessor

from benchmarks.turns import peak, serve

TASK = json.loads(sys.argv[1])
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODEL = (
    UNet2DModel.from_pretrained(TASK["folder"], subfolder="unet")
    .to(DEVICE)
    .eval()
    .requires_grad_(False)
)
for module in MODEL.modules():
    if hasattr(module, "set_processor"):
        module.set_processor(AttnProcessor())
LARGEST: list[float] = []


def main() -> None:
    n, size = TASK["points"], TASK["size"]
    x = (
        np.random.default_rng(0)
        .standard_normal((n, size, size, MODEL.config.in_channels))
        .astype(np.float32)
    )
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().to(DEVICE)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    sigma = float((1 - torch.cumprod(1 - betas, 0)[300]).sqrt())

    def denoiser(x):
        return x - sigma * MODEL(x, 300, return_dict=False)[0]

    def lanczos() -> torch.Tensor:
        """The largest Ritz value at every point; images do not see each other, so one product serves all."""
        torch.manual_seed(0)
        _, backward = torch.func.vjp(denoiser, images)
        basis = [torch.nn.functional.normalize(torch.randn(n, images[0].numel(), device=DEVICE))]
        alphas, betas = [], []
        for _ in range(TASK["steps"]):
            v = basis[-1].view_as(images)
            _, forward = torch.func.jvp(denoiser, (images,), (v,))
            w = (0.5 * (forward + backward(v, retain_graph=True)[0])).flatten(1)
            alphas.append((w * basis[-1]).sum(1))
            for _ in range(2):  # full reorthogonalization
                for b in basis:
                    w = w - (w * b).sum(1, keepdim=True) * b
            betas.append(w.norm(dim=1))
            basis.append(w / betas[-1][:, None])
        diagonal, beyond = torch.stack(alphas, 1), torch.stack(betas[:-1], 1)
        tridiagonal = (
            torch.diag_embed(diagonal) + torch.diag_embed(beyond, 1) + torch.diag_embed(beyond, -1)
        )
        return torch.linalg.eigvalsh(tridiagonal)[:, -1]

    def steps(count: int) -> None:
        for _ in range(count):
            LARGEST[:] = [round(float(v), 5) for v in lanczos()[:3]]

    serve(steps, n * TASK["steps"], 0.0, lambda: {"peak_mb": peak(), "largest": LARGEST})


if __name__ == "__main__":
    main()
