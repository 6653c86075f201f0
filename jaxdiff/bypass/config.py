"""The settings of the bypassed mid-block, and the rules that no single setting shows."""

import dataclasses
from collections.abc import Callable

from etils import epath

from jaxdiff.features.extractors import EXTRACTORS
from jaxdiff.setting_fields import Config, from_config, setting
from jaxdiff.unet import UNet
from jaxdiff.unet_bypass import BypassedUNet, Form

FORMS: tuple[Form, ...] = ("blend", "channels", "elements")
MIN_SAMPLES = 8  # fewer have no useful intervals
MIN_QUERIES = 2


@dataclasses.dataclass(frozen=True)
class BypassSettings:
    """What is bypassed, how trained cells are measured, and what pipelines draw."""

    fractions: tuple[float, ...] = setting(
        (0.0, 0.25, 0.5, 0.75, 1.0), "fractions of the mid-block that are bypassed", min=0, max=1
    )
    forms: tuple[str, ...] = setting(
        FORMS,
        "what a fraction means: a blend of input and output, channels, or elements",
        nonempty=True,
    )
    window: tuple[float, float] = setting(
        (0.0, 1.0),
        "part of the denoising in which the block is bypassed, from 0 (noise) to 1 (image)",
        min=0,
        max=1,
    )
    ramp: float = setting(
        0.0, "part of the denoising over which the fraction rises and falls again", min=0
    )
    num: int = setting(0, "cells: samples at every fraction; 0 takes the cell's own number", min=0)
    queries: int = setting(
        64, "cells: samples at which the effective k is fitted; 0 leaves it out", min=0
    )
    noise: float = setting(
        0.3, "cells: noise level of that fit, as a fraction of all timesteps", min=0, max=1
    )
    prompts: tuple[str, ...] = setting(
        ("a woman", "a girl", "an actress", "an actor", "a queen"),
        "Stable Diffusion: prompts whose images are compared",
        nonempty=True,
    )
    negative: str = setting("", "Stable Diffusion: negative prompt")
    seeds: tuple[int, ...] = setting(
        (0, 1, 2, 3),
        "Stable Diffusion: each seed gives the same noise to all prompts",
        min=0,
        nonempty=True,
    )
    guidance: float = setting(
        7.5, "Stable Diffusion: scale of classifier-free guidance; 1 is none", min=0
    )
    guidances: tuple[float, ...] = setting(
        (5.0, 3.0, 2.0, 1.0),
        "Stable Diffusion: other scales, with nothing bypassed, as the control",
        min=0,
    )
    steps: int = setting(50, "Stable Diffusion: steps of the folder's own sampler", min=1)
    size: int = setting(
        0, "Stable Diffusion: pixels on a side; 0 takes those of the folder's U-Net", min=0
    )
    batch: int = setting(4, "Stable Diffusion: images computed at once, over all devices", min=1)
    lpips: str = setting("vgg", "Stable Diffusion: the network of LPIPS", choices=("vgg", "alex"))
    space: str = setting(
        "efficientnet",
        "Stable Diffusion: feature space of cosine similarities",
        choices=lambda: tuple(name for name in EXTRACTORS if name != "pixels"),
    )
    inception: str = setting(
        "", "Stable Diffusion: FID's Inception-v3 weights file, for that space"
    )


def read_settings(config: Config) -> BypassSettings:
    """The checked settings; 0 is among the fractions, which rise; prompts are distinct.

    Raises
    ------
    ValueError
        Naming the key, for the first value that cannot be used.
    """
    bypass = from_config(BypassSettings, config)
    for rule in RULES:
        rule(bypass)
    # Rounded, so that 0.3 and 3 * 0.1 are one point.
    fractions = {0.0, *(round(float(fraction), 4) for fraction in bypass.fractions)}
    return dataclasses.replace(
        bypass,
        fractions=tuple(sorted(fractions)),
        prompts=tuple(dict.fromkeys(bypass.prompts)),
    )


def check_forms(unet: UNet, num_noise_steps: int, settings: BypassSettings) -> None:
    """Raise ValueError where a network cannot be bypassed in a form that the settings ask for."""
    for form in settings.forms:
        BypassedUNet(
            unet,
            0.0,
            num_noise_steps,
            form=form,  # type: ignore[arg-type]
            window=settings.window,
            ramp=settings.ramp,
        )


def _check_fractions(bypass: BypassSettings) -> None:
    if max(bypass.fractions, default=0.0) == 0:
        raise ValueError(
            f"config.fractions is {bypass.fractions}; it needs a fraction above 0 and up to 1"
        )


def _check_window(bypass: BypassSettings) -> None:
    window = bypass.window
    if len(window) != 2 or window[0] >= window[1]:
        raise ValueError(
            f"config.window is {window}; it needs two numbers, the smaller one first, such as "
            "(0.2, 0.8)"
        )


def _check_forms(bypass: BypassSettings) -> None:
    for form in bypass.forms:
        if form not in FORMS:
            raise ValueError(f"config.forms holds {form!r}; choose among {', '.join(FORMS)}")


def _check_counts(bypass: BypassSettings) -> None:
    for name, smallest in (("num", MIN_SAMPLES), ("queries", MIN_QUERIES)):
        count = getattr(bypass, name)
        if 0 < count < smallest:
            raise ValueError(f"config.{name} must be 0 or at least {smallest}, got {count}")


def _check_seeds(bypass: BypassSettings) -> None:
    if len(set(bypass.seeds)) < len(bypass.seeds):
        raise ValueError(f"config.seeds is {bypass.seeds}; it needs different whole numbers")


def _check_inception(bypass: BypassSettings) -> None:
    if bypass.space == "inception" and not bypass.inception:
        raise ValueError("config.space is inception; give its weights file as config.inception")
    if bypass.inception and not epath.Path(bypass.inception).exists():
        raise ValueError(f"config.inception is {bypass.inception}, which does not exist")


RULES: tuple[Callable[[BypassSettings], None], ...] = (
    _check_fractions,
    _check_window,
    _check_forms,
    _check_counts,
    _check_seeds,
    _check_inception,
)
