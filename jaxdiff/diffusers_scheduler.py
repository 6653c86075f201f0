"""scheduler_config.json of diffusers' DDPM and DDIM schedulers, in and out; of others, in.

Of a scheduler that samples in another way, the noise levels and the prediction are read, which are
the model's; its samples are then drawn by DDIM.
"""

import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import diffusers_io, diffusion, files
from jaxdiff.diffusers_config import DIFFUSERS_VERSION
from jaxdiff.diffusion import Prediction, Schedule
from jaxdiff.field_rules import FLAG, NULL, Rule, check_fields, list_of, number, whole

log = logging.getLogger(__name__)
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
SCHEDULERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler"}
# Stable Diffusion's: those of Schedule.scaled_linear, and the defaults of some schedulers below.
STABLE_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
# What DDPM and DDIM have, with the defaults that an absent field has.
COMMON_FIELDS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
PNDM_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
)
FIELDS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": COMMON_FIELDS | {"variance_type": "fixed_small"},
    "DDIMScheduler": COMMON_FIELDS | {"set_alpha_to_one": True},
    "PNDMScheduler": {key: COMMON_FIELDS[key] for key in PNDM_FIELDS}
    | {"set_alpha_to_one": False, "skip_prk_steps": False},
}
# Schedulers of diffusers that have DDPM's noise levels and sample in other ways. Where an absent
# field has another default than in DDIM, that is here.
LINSPACE = {"timestep_spacing": "linspace"}
OTHER_SCHEDULERS: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"set_alpha_to_one": False},
    "EulerDiscreteScheduler": LINSPACE,
    "EulerAncestralDiscreteScheduler": LINSPACE,
    "HeunDiscreteScheduler": LINSPACE | STABLE_BETAS,
    "KDPM2DiscreteScheduler": LINSPACE | STABLE_BETAS,
    "KDPM2AncestralDiscreteScheduler": LINSPACE | STABLE_BETAS,
    "LMSDiscreteScheduler": LINSPACE,
    "DEISMultistepScheduler": LINSPACE,
    "DPMSolverMultistepScheduler": LINSPACE,
    "DPMSolverSinglestepScheduler": LINSPACE,
    "DPMSolverSDEScheduler": LINSPACE | STABLE_BETAS,
    "UniPCMultistepScheduler": LINSPACE,
}
# What they share with DDIM; the rest of their fields say how they sample.
SHARED_FIELDS = (*PNDM_FIELDS, "set_alpha_to_one", "rescale_betas_zero_snr")
# Fields that make other noise or another network of them; each must be null or one of these.
FIXED_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "use_flow_sigmas": (False,),
    "timestep_type": ("discrete",),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
TRAINING_CHECKPOINT = re.compile(r"checkpoint-\d+")  # a folder of diffusers' training scripts
# Of a U-Net that comes without a scheduler.
DEFAULT: dict[str, Any] = {"_class_name": "DDPMScheduler"} | FIELDS["DDPMScheduler"]
# A scheduler ignores fields of the others, which conversions leave in its file, and two fields of
# the first hub checkpoints are read.
READABLE_FIELDS = set().union(*FIELDS.values()) | {"tensor_format", "predict_epsilon"}
# Fields of OTHER_SCHEDULERS that say how they sample, which DDIM does in its own way.
SAMPLING_FIELDS = {
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("sigma_min", "sigma_max", "final_sigmas_type", "interpolation_type", "lambda_min_clipped"),
    *("solver_order", "solver_type", "solver_p", "algorithm_type", "predict_x0"),
    *("lower_order_final", "euler_at_final", "disable_corrector", "noise_sampler_seed"),
    *("flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal"),  # of flows alone
    *FIXED_FIELDS,
}
MAX_STEPS = 1_000_000
# Key of what a cell's own sampler has and no field of diffusers; diffusers keeps it unread.
OWN_SAMPLER = "_jaxdiff_sampler"
OWN_RULES: Mapping[str, Rule] = {
    "steps": whole(1, MAX_STEPS),
    "eta": number(0, 1),
    "rederive": FLAG,
    "stride": FLAG,
}
RULES: Mapping[str, Rule] = {
    "num_train_timesteps": whole(1, MAX_STEPS),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "trained_betas": NULL | list_of(number(0, 1), 1, MAX_STEPS),
    "clip_sample": FLAG,
    "clip_sample_range": number(1e-6, 1e6),
    "thresholding": FLAG,
    "dynamic_thresholding_ratio": number(0, 1),
    "sample_max_value": number(0, 1e6),
    "steps_offset": whole(0, MAX_STEPS),
    "rescale_betas_zero_snr": FLAG,
    "set_alpha_to_one": FLAG,
    "skip_prk_steps": FLAG,
    "predict_epsilon": FLAG,
}
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": tuple(SCHEDULES),
    "prediction_type": tuple(PREDICTIONS),
    "thresholding": (False,),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
    "skip_prk_steps": (True,),
}


def find_file(folder: epath.PathLike) -> epath.Path | None:
    """A folder's scheduler_config.json, None where it has none."""
    folder = epath.Path(folder)
    candidates = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    return next((path for path in candidates if path.exists()), None)


def find_folder(folder: epath.PathLike) -> epath.Path | None:
    """The folder with the scheduler of a U-Net's training, None where there is none.

    It is the pipeline's own folder, the one above the U-Net's, whatever the U-Net's is called, or
    the one above that, where a training run has written checkpoint-N/unet.

    Raises
    ------
    ValueError
        Where the folder is no UNet2DModel's.
    """
    folder = epath.Path(folder)
    unet_folder = diffusers_io.find_unet_folder(folder)
    parent = unet_folder.resolve().parent
    candidates = [folder, parent]
    if TRAINING_CHECKPOINT.fullmatch(parent.name):
        candidates.append(parent.parent)
    return next((path for path in candidates if find_file(path)), None)


def read(
    folder: epath.PathLike, supported: Sequence[str] = ("DDPMScheduler", "DDIMScheduler")
) -> dict[str, Any]:
    """All fields of a folder's scheduler_config.json.

    Parameters
    ----------
    folder
        A diffusers folder.
    supported
        The two schedulers that are read whole; one of OTHER_SCHEDULERS is read as a DDIMScheduler
        with the same noise levels.

    Raises
    ------
    ValueError
        Where there is no such file, for a scheduler with another kind of noise, and for a field or
        a value that is not supported.
    """
    path = find_file(folder)
    if path is None:
        raise ValueError(f"{folder} has no scheduler_config.json; put it there")
    raw = files.read_json(path)
    class_name = str(raw.get("_class_name"))
    if class_name not in supported:
        raw = _read_as_ddim(raw, path)
        class_name = raw["_class_name"]
    _check_keys(raw, READABLE_FIELDS, path)
    check_fields(raw, RULES, path)
    defaults = FIELDS[class_name]
    # The common fields too, which a PNDMScheduler lacks and the readers of this dict expect.
    fields = COMMON_FIELDS | {"_class_name": class_name} | defaults
    fields |= {key: raw[key] for key in defaults if key in raw}
    if "predict_epsilon" in raw and "prediction_type" not in raw:
        fields["prediction_type"] = "epsilon" if raw["predict_epsilon"] else "sample"
    if OWN_SAMPLER in raw:
        fields[OWN_SAMPLER] = _read_own_sampler(raw[OWN_SAMPLER], path)
    _check_values(fields, path)
    _check_steps(fields, path)
    _check_last_step(fields, path)
    return fields


def _read_own_sampler(own: Any, path: epath.Path) -> dict[str, Any]:
    if not isinstance(own, dict) or set(own) - set(OWN_RULES):
        raise ValueError(
            f"{path} must hold in {OWN_SAMPLER} a dict of {', '.join(OWN_RULES)}; remove it"
        )
    check_fields(own, OWN_RULES, path)
    return own


def _check_keys(raw: Mapping[str, Any], readable: set[str], path: epath.Path) -> None:
    for key in raw:
        if key not in readable and not key.startswith("_"):
            raise ValueError(
                f"{path} sets {key!r}, which is no supported field of {raw['_class_name']}"
            )


def _read_as_ddim(raw: Mapping[str, Any], path: epath.Path) -> dict[str, Any]:
    """The fields of a DDIMScheduler with the noise levels and the prediction of another."""
    class_name = str(raw.get("_class_name"))
    if class_name not in OTHER_SCHEDULERS:
        names = ", ".join(["DDPMScheduler", "DDIMScheduler", *OTHER_SCHEDULERS])
        raise ValueError(
            f"{path} is of {class_name}, and the noise must be DDPM's: choose a model with one of "
            f"{names}"
        )
    for key, values in FIXED_FIELDS.items():
        if raw.get(key) not in (None, *values):
            raise ValueError(
                f"{path} sets {key} to {json.dumps(raw[key])}, and the model of a {class_name} is "
                "read without it; choose another model"
            )
    _check_keys(raw, READABLE_FIELDS | SAMPLING_FIELDS, path)
    _report_sampler(class_name, path)
    # None of these clips by default; where one does, as Heun's can, it says so itself.
    fields = {"clip_sample": False, "_class_name": "DDIMScheduler"} | OTHER_SCHEDULERS[class_name]
    keys = (*SHARED_FIELDS, "clip_sample", "clip_sample_range", "predict_epsilon")
    return fields | {key: raw[key] for key in keys if key in raw}


@functools.cache  # once, however often the file is read
def _report_sampler(class_name: str, path: epath.Path) -> None:
    log.warning(
        "%s is of %s: its noise levels and prediction are read, and DDIM draws the samples",
        path,
        class_name,
    )


def _check_steps(fields: Mapping[str, Any], path: epath.PathLike) -> None:
    """Check what fields say together of the timesteps."""
    T = fields["num_train_timesteps"]
    betas = fields["trained_betas"]
    if betas is not None and len(betas) != T:
        raise ValueError(
            f"{path} sets num_train_timesteps to {T} and has {len(betas)} trained_betas; they must "
            "be as many"
        )
    if betas is not None and not (min(betas) > 0 and all(beta < 1 for beta in betas[:-1])):
        raise ValueError(
            f"{path} sets trained_betas to values from {min(betas)} to {max(betas)}; each must be "
            "above 0 and below 1, or the last one 1"
        )
    if fields["rescale_betas_zero_snr"] and T == 1:
        raise ValueError(
            f"{path} sets rescale_betas_zero_snr, which needs 2 steps, and num_train_timesteps to 1"
        )
    if fields["steps_offset"] >= T:
        raise ValueError(
            f"{path} sets steps_offset to {fields['steps_offset']}; it must be below "
            f"num_train_timesteps, {T}"
        )
    if betas is None and not 0 < fields["beta_start"] <= fields["beta_end"]:
        raise ValueError(
            f"{path} sets beta_start to {fields['beta_start']} and beta_end to "
            f"{fields['beta_end']}; the first must be above 0 and the second no smaller"
        )


def _check_last_step(fields: Mapping[str, Any], path: epath.PathLike) -> None:
    """Refuse eps where sampling begins without any signal: x0 would be divided by zero."""
    begins_at_last = fields["_class_name"] == "DDPMScheduler" or (
        fields["timestep_spacing"] != "leading"
    )
    is_eps = fields["prediction_type"] == "epsilon"
    if is_eps and begins_at_last and build_schedule(fields).alpha_bar[-1] == 0:
        raise ValueError(
            f"{path} sets prediction_type to epsilon and leaves no signal at the last step "
            "(rescale_betas_zero_snr, or betas up to 1), from which nothing can be sampled; a "
            "model for it has v_prediction"
        )


def _check_values(fields: Mapping[str, Any], path: epath.PathLike) -> None:
    for key, supported in SUPPORTED_VALUES.items():
        if key in fields and fields[key] not in supported:
            names = ", ".join(map(str, supported))
            shown = json.dumps(fields[key])
            raise ValueError(f"{path} sets {key} to {shown}; it must be one of {names}")


def build_schedule(scheduler: Mapping[str, Any]) -> Schedule:
    """The noise schedule of all fields of a scheduler_config.json."""
    betas = _betas(scheduler)
    # Lin et al. 2024
    if scheduler["rescale_betas_zero_snr"]:
        return Schedule.zero_terminal_snr(betas)
    return Schedule.from_betas(betas)


def _betas(scheduler: Mapping[str, Any]) -> np.ndarray:
    if scheduler["trained_betas"] is not None:
        return np.asarray(scheduler["trained_betas"], np.float64)
    T = scheduler["num_train_timesteps"]
    if scheduler["beta_schedule"] == "squaredcos_cap_v2":
        return diffusion.cosine_betas(T)
    # By their ends, which may be others than the defaults of Schedule.linear.
    is_linear = scheduler["beta_schedule"] == "linear"
    betas = diffusion.linear_betas if is_linear else diffusion.scaled_linear_betas
    return betas(T, float(scheduler["beta_start"]), float(scheduler["beta_end"]))


def get_prediction(scheduler: Mapping[str, Any]) -> Prediction:
    """What the network's output stands for."""
    return PREDICTIONS[scheduler["prediction_type"]]


def sampler_settings(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler that diffusers' pipeline runs with a scheduler, as a cell's `sample` section.

    DDPM runs over all steps, DDIM and PNDM over 50. A cell that was converted keeps its own.
    """
    own = scheduler.get(OWN_SAMPLER, {})
    T = build_schedule(scheduler).steps
    settings = {
        "clip": float(scheduler["clip_sample_range"]) if scheduler["clip_sample"] else 0.0,
        "spacing": scheduler["timestep_spacing"],
        "offset": scheduler["steps_offset"],
    }
    if scheduler["_class_name"] == "DDPMScheduler":
        # fixed_small_log is the same noise: its standard deviation by way of the logarithm.
        is_large = scheduler["variance_type"] == "fixed_large"
        variance = "fixed_large" if is_large else "fixed_small"
        return settings | {"method": "ddpm", "steps": T, "variance": variance} | own
    settings |= {"steps": min(50, T), "to_one": scheduler["set_alpha_to_one"]}
    if scheduler["_class_name"] == "PNDMScheduler":
        return settings | {"method": "pndm"}
    # diffusers' DDIM keeps the predicted eps where x0 is clipped.
    return settings | {"method": "ddim", "eta": 0.0, "rederive": False, "stride": True} | own


def from_settings(diffusion: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of scheduler_config.json.

    Parameters
    ----------
    diffusion
        A cell's `diffusion` section: schedule or alpha_bar, steps, prediction.
    sample
        Its `sample` section: method, clip, ...
    """
    schedule_names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    prediction_types = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    method = sample["method"]
    if method not in SCHEDULERS:
        raise ValueError(
            f"a cell's sampler must be one of {', '.join(SCHEDULERS)} to become a diffusers "
            f"scheduler, got {method}; set sample.method in the cell's config.json to one of them"
        )
    class_name = SCHEDULERS[method]
    fields: dict[str, Any] = dict(FIELDS[class_name])
    fields |= {"_class_name": class_name, "_diffusers_version": DIFFUSERS_VERSION}
    # A schedule without a name is its betas.
    if "alpha_bar" in diffusion:
        fields["trained_betas"] = _betas_of(diffusion["alpha_bar"])
    else:
        fields["beta_schedule"] = schedule_names[diffusion["schedule"]]
        if diffusion["schedule"] == "scaled_linear":
            fields |= STABLE_BETAS
    own = {"steps": sample["steps"]}
    if method == "ddpm":
        fields["variance_type"] = sample.get("variance", "fixed_small")
    else:
        fields["set_alpha_to_one"] = sample.get("to_one", True)
        own |= {
            "eta": sample.get("eta", 0.0),
            "rederive": sample.get("rederive", True),
            "stride": sample.get("stride", False),
        }
    return fields | {
        OWN_SAMPLER: own,
        "num_train_timesteps": diffusion["steps"],
        "prediction_type": prediction_types[diffusion["prediction"]],
        "clip_sample": bool(sample["clip"]),
        "clip_sample_range": float(sample["clip"]) or 1.0,  # ignored where nothing is clipped
        # A study's settings name no spacing: it samples by the default of SamplingMethod.
        "timestep_spacing": sample.get("spacing", "trailing"),
        "steps_offset": sample.get("offset", 0),
    }


def _betas_of(alpha_bar: Sequence[float]) -> list[float]:
    """The betas whose running product of 1 - beta is alpha_bar."""
    levels = np.asarray(alpha_bar, np.float64)
    ratios = levels / np.concatenate([[1.0], levels[:-1]])
    return (1.0 - ratios).tolist()
