"""The small U-Net that the probe's tests share, and images for it."""

import numpy as np
from flax import nnx

from jaxdiff.probe.options import ProbeOptions
from jaxdiff.unet import UNet, UNetConfig

SMALL = UNetConfig(
    (8, 8),
    norm_num_groups=4,
    layers_per_block=1,
    add_attention=False,
    in_channels=1,
    out_channels=1,
)
SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, *SHAPE)).astype(np.uint8)
OPTIONS = ProbeOptions(noise=(0.3,), ranks=(4, 8, 512), random=False, probes=4, ks=(1, 3))


def build_unet() -> UNet:
    unet = UNet(SMALL, rngs=nnx.Rngs(0))
    unet.conv_out.weight[...] *= 10.0  # so that the energy bends
    return unet
