"""scheduler_config.json of diffusers' DDPMScheduler and DDIMScheduler, in and out; of PNDMScheduler, in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import diffusion, files
from jaxdiff.diffusion import Prediction, Schedule

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
COMMON: dict[str, Any] = {  # what DDPM and DDIM have, with the defaults that an absent field has
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
    "clip_sample": True, "clip_sample_range": 1.0, "prediction_type": "epsilon", "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "timestep_spacing": "leading", "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}  # fmt: skip
PNDM = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
        "timestep_spacing", "steps_offset")  # fmt: skip
FIELDS = {
    "DDPMScheduler": COMMON | {"variance_type": "fixed_small"},
    "DDIMScheduler": COMMON | {"set_alpha_to_one": True},
    "PNDMScheduler": {key: COMMON[key] for key in PNDM}
    | {"set_alpha_to_one": False, "skip_prk_steps": False},
}
ANY = set().union(
    *FIELDS.values()
)  # a scheduler passes over what another's conversion left in its file
DEFAULT = {"_class_name": "DDPMScheduler"} | FIELDS[
    "DDPMScheduler"
]  # of a U-Net that comes without a scheduler
EARLY = {"tensor_format", "predict_epsilon"}  # fields of the first hub checkpoints
KNOWN = {
    "beta_schedule": tuple(SCHEDULES), "prediction_type": tuple(PREDICTIONS), "thresholding": (False,),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"), "skip_prk_steps": (True,),
}  # fmt: skip


def read(
    folder: epath.PathLike, known: Sequence[str] = ("DDPMScheduler", "DDIMScheduler")
) -> dict[str, Any]:
    """scheduler_config.json of a diffusers folder with every field; DDPM's defaults where there is none.

    known: the schedulers that may be there. Raises ValueError, naming it, for another one and for a field or a value that
    is not known here.
    """
    folder = epath.Path(folder)
    places = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return dict(DEFAULT)
    raw = files.read_json(path)
    name = str(raw.get("_class_name"))
    if name not in known:
        raise ValueError(
            f"{path} is of {name}; write it as a {known[0]}'s or a {known[1]}'s, which are known here"
        )
    unknown = [key for key in raw if key not in ANY | EARLY and not key.startswith("_")]
    if unknown:
        raise ValueError(
            f"{path} sets {unknown[0]!r}, which is no field of {name} that is known here"
        )
    full = (
        COMMON
        | {"_class_name": name}
        | FIELDS[name]
        | {key: raw[key] for key in FIELDS[name] if key in raw}
    )
    if "predict_epsilon" in raw and "prediction_type" not in raw:
        full["prediction_type"] = "epsilon" if raw["predict_epsilon"] else "sample"
    for key, allowed in KNOWN.items():
        if key in full and full[key] not in allowed:
            raise ValueError(
                f"{path} sets {key} to {full[key]!r}; {', '.join(map(str, allowed))} are known here"
            )
    return full


def schedule(scheduler: dict[str, Any]) -> Schedule:
    """The noise levels that a whole scheduler_config.json describes."""
    s = scheduler
    if s["trained_betas"] is not None:
        betas = np.asarray(s["trained_betas"], np.float64)
    elif s["beta_schedule"] == "squaredcos_cap_v2":
        betas = diffusion.cosine_betas(s["num_train_timesteps"])
    else:
        rise = (
            diffusion.linear_betas
            if s["beta_schedule"] == "linear"
            else diffusion.scaled_linear_betas
        )
        betas = rise(s["num_train_timesteps"], s["beta_start"], s["beta_end"])
    return (
        Schedule.zero_terminal_snr(betas)
        if s["rescale_betas_zero_snr"]
        else Schedule.from_betas(betas)
    )


def prediction(scheduler: dict[str, Any]) -> Prediction:
    """What the network's output stands for."""
    return PREDICTIONS[scheduler["prediction_type"]]


def sampling(scheduler: dict[str, Any]) -> dict[str, Any]:
    """The sampler that diffusers' pipeline runs with this scheduler: DDPM over all steps, or DDIM or PNDM over 50.

    As diffusers does, DDIM keeps the predicted eps where x0 is clipped.
    """
    s, T = scheduler, schedule(scheduler).steps
    clip = float(s["clip_sample_range"]) if s["clip_sample"] else 0.0
    path = {"clip": clip, "spacing": s["timestep_spacing"], "offset": s["steps_offset"]}
    if s["_class_name"] == "DDPMScheduler":
        variance = "fixed_large" if s["variance_type"] == "fixed_large" else "fixed_small"
        return path | {"method": "ddpm", "steps": T, "variance": variance}
    path |= {"steps": min(50, T), "to_one": s["set_alpha_to_one"]}
    if s["_class_name"] == "PNDMScheduler":
        return path | {"method": "pndm"}
    return path | {"method": "ddim", "eta": 0.0, "rederive": False, "stride": True}


def write(settings: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    """scheduler_config.json from a cell's `diffusion` and `sample` settings (schedule, steps, prediction; method, ...)."""
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    schedulers = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler"}
    if sample["method"] not in schedulers:
        raise ValueError(
            "a cell's sampler must be one of ddpm, ddim to become a diffusers scheduler, got "
            f"{sample['method']}; set sample.method in the cell's config.json to one of them"
        )
    name = schedulers[sample["method"]]
    found = {"_class_name": name, "_diffusers_version": "0.42.1"} | FIELDS[name]
    if settings["schedule"] == "scaled_linear":
        found |= {"beta_start": 0.00085, "beta_end": 0.012}
    return found | {
        "beta_schedule": names[settings["schedule"]], "num_train_timesteps": settings["steps"],
        "prediction_type": predictions[settings["prediction"]], "clip_sample": bool(sample["clip"]),
        "clip_sample_range": float(sample["clip"]) or 1.0, "timestep_spacing": sample.get("spacing", "trailing"),
        "steps_offset": sample.get("offset", 0),
    }  # fmt: skip
