"""Every setting of the bypassed mid-block, its default and its meaning, in one table; and the checks of their values."""

from typing import Any

import ml_collections
from etils import epath

from jaxdiff.features.extractors import EXTRACTORS
from jaxdiff.study.config import Table, get

FORMS = ("blend", "channels", "elements")
# key            default                            what it is
TABLE: Table = (
    ("fractions",  (0.0, 0.25, 0.5, 0.75, 1.0),       "fractions of the mid-block that are bypassed, from 0 to 1"),
    ("forms",      FORMS,                             "which fraction that is: blend of input and output, channels, or elements"),
    ("window",     (0.0, 1.0),                        "part of the denoising in which it is bypassed, from 0 (noise) to 1 (image)"),
    ("ramp",       0.0,                               "part of the denoising over which the fraction rises and falls, inside the window"),
    ("num",        0,                                 "trained cells: samples at every fraction; 0 takes as many as the cell has"),
    ("queries",    64,                                "trained cells: samples on whose path the effective k is fitted; 0 leaves it out"),
    ("noise",      0.3,                               "trained cells: the noise level, of all, at which it is fitted"),
    ("prompts",    ("a woman", "a girl", "an actress", "an actor", "a queen"), "Stable Diffusion: what is drawn, side by side"),
    ("negative",   "",                                "Stable Diffusion: what the pictures shall not show"),
    ("seeds",      (0, 1, 2, 3),                      "Stable Diffusion: each gives one noise to all prompts"),
    ("guidance",   7.5,                               "Stable Diffusion: scale of classifier-free guidance; 1 is none"),
    ("guidances",  (5.0, 3.0, 2.0, 1.0),              "Stable Diffusion: other scales, without bypassing: the control"),
    ("steps",      50,                                "Stable Diffusion: steps of the folder's own sampler"),
    ("size",       0,                                 "Stable Diffusion: pixels on a side; 0 takes those of the folder's U-Net"),
    ("batch",      4,                                 "Stable Diffusion: pictures computed at once, over all devices"),
    ("lpips",      "vgg",                             "Stable Diffusion: the net of LPIPS, vgg or alex"),
    ("space",      "efficientnet",                    "Stable Diffusion: where cosines are taken: efficientnet, vgg or inception"),
    ("inception",  "",                                "Stable Diffusion: FID's Inception-v3 weights file, for that space"),
)  # fmt: skip
LEAST = {"num": 0, "queries": 0, "ramp": 0, "guidance": 0, "steps": 1, "size": 0, "batch": 1}
FEWEST = {"num": 8, "queries": 2}  # where it is not 0: fewer have no intervals
KINDS = {
    "fractions": float,
    "window": float,
    "guidances": float,
    "forms": str,
    "prompts": str,
    "seeds": int,
}


def check(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The settings as plain values, 0 among the fractions, which rise. Raises ValueError for the first that cannot be used."""
    s: dict[str, Any] = {
        key: tuple(v) if isinstance(v := get(config, key), tuple | list) else v
        for key, _, _ in TABLE
    }
    for key, kind in KINDS.items():
        if not all(isinstance(v, (int, float) if kind is float else kind) for v in s[key]):
            raise ValueError(f"config.{key} is {s[key]}; each entry is of type {kind.__name__}")
    for key, least in LEAST.items():
        if s[key] < least or 0 < s[key] < FEWEST.get(key, 0):
            few = f"0, or at least {FEWEST[key]}," if key in FEWEST else f"at least {least}"
            raise ValueError(f"config.{key} is {s[key]}; {few} is expected")
    if (
        any(not 0 <= p <= 1 for p in (*s["fractions"], *s["window"], s["noise"]))
        or max(s["fractions"], default=0) == 0
    ):
        raise ValueError(
            f"config.fractions is {s['fractions']}, config.window {s['window']} and config.noise {s['noise']}; numbers from 0 to 1 are "
            "expected, a fraction above 0 among them"
        )
    if any(g < 0 for g in s["guidances"]):
        raise ValueError(f"config.guidances is {s['guidances']}; scales of 0 or more are expected")
    if len(s["window"]) != 2 or s["window"][0] >= s["window"][1]:
        raise ValueError(
            f"config.window is {s['window']}; two numbers are expected, the smaller one first, as (0.2, 0.8)"
        )
    for key, known in (
        ("forms", FORMS),
        ("lpips", ("vgg", "alex")),
        ("space", tuple(n for n in EXTRACTORS if n != "pixels")),
    ):
        for name in s[key] if isinstance(s[key], tuple) else (s[key],):
            if name not in known:
                raise ValueError(f"config.{key} is {name!r}; choose of {', '.join(known)}")
    if not s["forms"] or not s["prompts"] or not s["seeds"]:
        raise ValueError(
            "config.forms, config.prompts and config.seeds need at least one entry each"
        )
    if len(set(s["seeds"])) < len(s["seeds"]) or min(s["seeds"]) < 0:
        raise ValueError(
            f"config.seeds is {s['seeds']}; different whole numbers that are not negative are expected"
        )
    if s["space"] == "inception" and not s["inception"]:
        raise ValueError("config.space is inception; give its weights file as config.inception")
    if s["inception"] and not epath.Path(s["inception"]).exists():
        raise ValueError(f"config.inception is {s['inception']}, which does not exist")
    return s | {
        "fractions": tuple(sorted({0.0, *(round(float(p), 4) for p in s["fractions"])})),
        "prompts": tuple(dict.fromkeys(s["prompts"])),
    }
