"""The peer's side of benchmarks.train and benchmarks.sample: diffusers with PyTorch.

It is a worker (see benchmarks/turns.py).
"""

import copy
import json
import sys
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from benchmarks.turns import serve
from benchmarks.unet_task import UNetTask

TASK = UNetTask(**json.loads(sys.argv[1]))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
MODEL = UNet2DModel.from_pretrained(TASK.folder, subfolder="unet").to(DEVICE)
COMPILED = torch.compile(MODEL) if TASK.compile else MODEL
CAST = torch.autocast(DEVICE, torch.bfloat16, enabled=TASK.dtype == "bfloat16")
MATMUL_SIZE = 2048


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure_matmul() -> float:
    """GFLOP/s of float32 matrix products, the best of ten."""
    a = torch.ones(MATMUL_SIZE, MATMUL_SIZE, device=DEVICE)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        a @ a
        synchronize()
        times.append(time.perf_counter() - start)
    return 2 * MATMUL_SIZE**3 / min(times[1:]) / 1e9


def build_trainer() -> Callable[[int], None]:
    """A function that runs train steps that do what ours do.

    They are uint8 images from memory, noise, loss, gradient, clipping, AdamW and the moving
    average.
    """
    model = MODEL.train()
    size = model.config.sample_size
    channels = model.config.in_channels
    images = torch.randint(0, 256, (1024, channels, size, size), dtype=torch.uint8, device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    scheduler = DDPMScheduler()
    params = list(model.parameters())
    ema_params = list(copy.deepcopy(MODEL).parameters())

    def run_steps(count: int) -> None:
        for _ in range(count):
            indices = torch.randint(0, 1024, (TASK.batch,), device=DEVICE)
            x0 = images[indices].float() / 127.5 - 1.0
            eps = torch.randn_like(x0)
            t = torch.randint(0, 1000, (TASK.batch,), device=DEVICE)
            with CAST:
                output = COMPILED(scheduler.add_noise(x0, eps, t), t, return_dict=False)[0]
            torch.nn.functional.mse_loss(output.float(), eps).backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(ema_params, params, 0.001)
        synchronize()

    return run_steps


def build_sampler() -> Callable[[int], None]:
    """A function that runs DDIM steps on one batch."""
    model = MODEL.eval()
    size = model.config.sample_size
    xt = torch.randn(TASK.batch, model.config.in_channels, size, size, device=DEVICE)
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(1000)

    @torch.no_grad()
    def run_steps(count: int) -> None:
        for t in scheduler.timesteps[:count]:
            with CAST:
                output = COMPILED(xt, t, return_dict=False)[0]
            scheduler.step(output.float(), t, xt, use_clipped_model_output=True)
        synchronize()

    return run_steps


def main() -> None:
    build = build_trainer if TASK.what == "train" else build_sampler
    serve(build(), TASK.batch, TASK.seconds, lambda: {"matmul_gflops": measure_matmul()})


if __name__ == "__main__":
    main()
