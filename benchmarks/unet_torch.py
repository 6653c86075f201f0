"""The peer's side of benchmarks.train and benchmarks.sample: diffusers with PyTorch.

It is a worker (see benchmarks/turns.py).
"""

import copy
import itertools
import json
import sys
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from benchmarks.torch_device import (
    DEVICE,
    allow_tf32,
    describe_device,
    release_memory,
    synchronize,
)
from benchmarks.turns import Answer, serve
from benchmarks.unet_task import UNetTask

TASK = UNetTask(**json.loads(sys.argv[1]))
allow_tf32()
torch.backends.cudnn.benchmark = True
MODEL = UNet2DModel.from_pretrained(TASK.folder, subfolder="unet").to(DEVICE)
if TASK.tuned:
    MODEL.to(memory_format=torch.channels_last)
COMPILED = torch.compile(MODEL) if TASK.compile else MODEL
CAST = torch.autocast(DEVICE, torch.bfloat16, enabled=TASK.dtype == "bfloat16")
PRODUCT_SIZE = 2048 if DEVICE == "cpu" else 8192  # which fills the device
CHAIN_STEPS = 1000


def measure_product() -> float:
    """GFLOP/s of matrix products, the best of ten."""
    dtype = getattr(torch, TASK.dtype)
    a = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, device=DEVICE, dtype=dtype)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        a @ a
        synchronize()
        times.append(time.perf_counter() - start)
    return 2 * PRODUCT_SIZE**3 / min(times[1:]) / 1e9


def build_trainer() -> Callable[[int], None]:
    """A function that runs train steps that do what ours do.

    They are uint8 images from memory, noise, loss, gradient, clipping, AdamW and the moving
    average.
    """
    model = MODEL.train()
    size = model.config.sample_size
    channels = model.config.in_channels
    images = torch.randint(0, 256, (1024, channels, size, size), dtype=torch.uint8, device=DEVICE)
    fused = True if TASK.tuned and DEVICE == "cuda" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=fused)
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
    scheduler.set_timesteps(CHAIN_STEPS)
    timesteps = itertools.cycle(scheduler.timesteps)

    @torch.no_grad()
    def run_steps(count: int) -> None:
        for t in itertools.islice(timesteps, count):
            with CAST:
                output = COMPILED(xt, t, return_dict=False)[0]
            scheduler.step(output.float(), t, xt, use_clipped_model_output=True)
        synchronize()

    return run_steps


def main() -> None:
    build = build_trainer if TASK.what == "train" else build_sampler
    run_steps = build()

    def prepare() -> Answer:
        run_steps(2)  # torch.compile compiles in the first step
        release_memory()
        return {}

    def describe() -> Answer:
        answer = describe_device()
        if TASK.product:
            answer["product_gflops"] = measure_product()
        return answer

    serve(run_steps, TASK.batch, TASK.seconds, describe, prepare)


if __name__ == "__main__":
    main()
