"""README.md of a model in diffusers' form: what it was trained on, its measures, how to load it."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import jinja2
from etils import epath

from jaxdiff import files
from jaxdiff.results import list_estimates

PREDICTIONS = {"eps": "the noise", "v": "v = s eps - sigma x0", "x0": "the clean image"}
SHOWN = 8  # rows of a measure; result.json has the others
SECTIONS = ("diffusion", "scheduler", "train", "sample")  # of the settings that are shown


def write_card(
    folder: epath.Path,
    cell: epath.Path,
    repository: str,
    license: str,
    step: int | None = None,
) -> None:
    """Write README.md into a pipeline's folder, and result.json beside it where the cell has one.

    Parameters
    ----------
    folder
        The pipeline's folder, as `jaxdiff.models.save` writes it.
    cell
        The cell's folder: config.json, and result.json where it was measured.
    repository
        What the model is loaded by: OWNER/NAME, or a folder.
    license
        Its id at the hub; unknown where it is not chosen.
    step
        The checkpoint, where it is not the one that the cell was measured at; its measures are
        left out then.
    """
    result = {}
    if (cell / "result.json").exists():
        result = files.read_json(cell / "result.json")
    if result and step is None:
        files.write_json(folder / "result.json", result)
    settings = files.read_json(cell / "config.json")
    run = files.read_json(cell / "run.json") if (cell / "run.json").exists() else {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxdiff.report", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    text = environment.get_template("model_card.md").render(
        title=repository.rpartition("/")[2],
        repository=repository,
        license=license,
        info=result.get("cell", {}),
        init=run.get("init", {}),
        rows=_measure_rows(result) if step is None else [],
        step=step,
        **_describe_settings(settings),
        **_describe_pipeline(folder),
    )
    files.write(folder / "README.md", text)


def _describe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of a cell's settings; a model from a notebook has fewer."""
    shown = {key: settings[key] for key in SECTIONS if key in settings}
    # A schedule without a name is its thousand noise levels.
    if "alpha_bar" in shown.get("diffusion", {}):
        shown["diffusion"] = shown["diffusion"] | {"alpha_bar": "those of the scheduler"}
    text = json.dumps(shown, indent=1, sort_keys=True)
    described: dict[str, Any] = {
        "settings": text if "train" in settings else "",
        "is_trained": "train" in settings,
        "data": "",
        "count": "",
    }
    if "proportions" in settings:
        described["data"] = settings["data"]["source"]
        shares = _describe_shares(settings)
        described["count"] = f"{settings['n']:,} images, {shares}; seed {settings['seed']}"
    return described


def _describe_shares(settings: Mapping[str, Any]) -> str:
    """The shares of the two classes, or of each without and with the group's attribute."""
    shares = settings["proportions"]
    names = [f"class {settings[role]}" for role in ("majority", "minority")]
    if len(shares) == 4:
        group = settings["data"]["group"]
        names = [f"{name} {word} {group}" for name in names for word in ("without", "with")]
    return ", ".join(f"{share:.4g} of {name}" for share, name in zip(shares, names, strict=True))


def _describe_pipeline(folder: epath.Path) -> dict[str, Any]:
    """What the card says of the files beside it."""
    config = files.read_json(folder / "unet" / "config.json")
    scheduler = files.read_json(folder / "scheduler" / "scheduler_config.json")
    predictions = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    is_ddim = scheduler["_class_name"] == "DDIMScheduler"
    T = scheduler["num_train_timesteps"]
    # A converted cell's own sampler; diffusers has no field for it.
    own = scheduler.get("_jaxdiff_sampler", {})
    options = ""
    if scheduler["clip_sample"] and own.get("rederive"):
        options += ", use_clipped_model_output=True"
    if own.get("eta"):
        options += f", eta={own['eta']:g}"
    return {
        "levels": len(config["block_out_channels"]),
        "prediction": PREDICTIONS[predictions[scheduler["prediction_type"]]],
        "size": f"{height} x {width} px and {config['in_channels']} channels",
        "pipeline": "DDIMPipeline" if is_ddim else "DDPMPipeline",
        "method": "ddim" if is_ddim else "ddpm",
        "steps": own.get("steps", min(50, T) if is_ddim else T),
        "more_options": options,
    }


def _measure_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Measure, quantity, value with its interval, and number of observations."""
    rows = []
    for section, group in itertools.groupby(list_estimates(result), lambda pair: pair[0]):
        estimates = [estimate for _, estimate in group]
        for estimate in estimates[:SHOWN]:
            rows.append((section, estimate.quantity, str(estimate), f"{estimate.n or ''}"))
        if len(estimates) > SHOWN:
            rows.append((section, f"and {len(estimates) - SHOWN} more", "", ""))
    return rows
