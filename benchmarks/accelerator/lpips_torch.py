"""The embeddings of LPIPS by torchvision's VGG16 with random weights: the peer, a worker."""

import json
import sys

import torch
import torchvision

from benchmarks.accelerator.sizes import Task
from benchmarks.torch_device import (
    DEVICE,
    allow_tf32,
    describe_device,
    release_memory,
    synchronize,
)
from benchmarks.turns import Answer, serve

TASK = Task(**json.loads(sys.argv[1]))
PIXELS = 32
BATCH = 8 if TASK.tiny else 512
EMBEDDED = (3, 8, 15, 22, 29)  # the last layer of each stage


def main() -> None:
    allow_tf32(TASK.tf32)
    torch.backends.cudnn.benchmark = True
    features = torchvision.models.vgg16(weights=None).features[: EMBEDDED[-1] + 1]
    features = features.to(DEVICE).eval()
    shape = (TASK.sizes.images, 3, PIXELS, PIXELS)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)

    def embed(images: torch.Tensor) -> torch.Tensor:
        """The sum of the embeddings, each pixel's channels scaled to length 1."""
        x = images.to(DEVICE).float() / 127.5 - 1.0
        total = torch.zeros((), device=DEVICE)
        for i, layer in enumerate(features):
            x = layer(x)
            if i in EMBEDDED:
                length = x.square().sum(1, keepdim=True).sqrt() + 1e-10
                total = total + (x / length).mean((2, 3)).sum()
        return total

    @torch.no_grad()
    def run(count: int) -> None:
        for _ in range(count):
            for batch in images.split(BATCH):
                embed(batch)
        synchronize()

    def prepare() -> Answer:
        with torch.no_grad():
            embed(images[:BATCH])
        synchronize()
        release_memory()
        return {}

    serve(run, len(images), 0.0, describe_device, prepare)


if __name__ == "__main__":
    main()
