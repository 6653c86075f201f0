"""The peer's side of benchmarks.train and benchmarks.sample: diffusers with PyTorch (see benchmarks/turns.py)."""

import copy
import json
import sys
import time

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from benchmarks.turns import serve

TASK = json.loads(sys.argv[1])
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True
MODEL = UNet2DModel.from_pretrained(TASK["folder"], subfolder="unet").to(DEVICE)
NET = torch.compile(MODEL) if TASK["compile"] else MODEL
CAST = torch.autocast(DEVICE, torch.bfloat16, enabled=TASK["dtype"] == "bfloat16")


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def product_rate() -> float:
    """GFLOP/s of a float32 matrix product of 2,048, the best of ten."""
    a, times = torch.ones(2048, 2048, device=DEVICE), []
    for _ in range(11):
        then = time.perf_counter()
        a @ a
        wait()
        times.append(time.perf_counter() - then)
    return 2 * 2048**3 / min(times[1:]) / 1e9


def trainer():
    """What our step does: uint8 images from memory, noise, loss, gradient, clipping, AdamW, the moving average."""
    net, ema = MODEL.train(), copy.deepcopy(MODEL)
    size, channels = net.config.sample_size, net.config.in_channels
    images = torch.randint(0, 256, (1024, channels, size, size), dtype=torch.uint8, device=DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01)
    scheduler = DDPMScheduler()
    average, weights = list(ema.parameters()), list(net.parameters())

    def steps(count: int) -> None:
        for _ in range(count):
            x0 = (
                images[torch.randint(0, 1024, (TASK["batch"],), device=DEVICE)].float() / 127.5
                - 1.0
            )
            eps, t = torch.randn_like(x0), torch.randint(0, 1000, (TASK["batch"],), device=DEVICE)
            with CAST:
                found = NET(scheduler.add_noise(x0, eps, t), t, return_dict=False)[0]
            torch.nn.functional.mse_loss(found.float(), eps).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 0.001)
        wait()

    return steps


def sampler():
    """DDIM steps on one batch."""
    size, channels = MODEL.eval().config.sample_size, MODEL.config.in_channels
    scheduler, xt = DDIMScheduler(), torch.randn(TASK["batch"], channels, size, size, device=DEVICE)
    scheduler.set_timesteps(1000)

    @torch.no_grad()
    def steps(count: int) -> None:
        for t in scheduler.timesteps[:count]:
            with CAST:
                found = NET(xt, t, return_dict=False)[0]
            scheduler.step(found.float(), t, xt, use_clipped_model_output=True)
        wait()

    return steps


def main() -> None:
    steps = (trainer if TASK["what"] == "train" else sampler)()
    serve(steps, TASK["batch"], TASK["seconds"], lambda: {"product": product_rate()})


if __name__ == "__main__":
    main()
