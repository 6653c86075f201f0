"""What a study plans when it begins, as study.json holds it."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxdiff import files
from jaxdiff.cells.cell import Cell
from jaxdiff.denoiser import count_parameters
from jaxdiff.records import check_records
from jaxdiff.result_schema import STUDY_TYPES, check_types
from jaxdiff.setting_fields import from_config
from jaxdiff.settings import AxesSettings
from jaxdiff.study.variants import axis_values, expand_models


def planned_settings(
    settings: Mapping[str, Any], cells: Sequence[Cell], path: epath.Path
) -> dict[str, Any]:
    """The content of study.json: the settings, and what was planned when the study began.

    Cells that a study gains later are trained and measured, and are in no claim.

    Parameters
    ----------
    settings
        All settings, as JSON holds them.
    cells
        All cells of the study.
    path
        Path of study.json, which may exist.

    Raises
    ------
    ValueError
        Where study.json was changed by hand, or an entry has another type.
    """
    begun: Mapping[str, Any] = settings
    if path.exists():
        check_records(path.parent, [path.stem])
        begun = files.read_json(path)
    if "seeds" in begun:
        check_types(path, begun, STUDY_TYPES)
    if "planned" in begun:
        return {**settings, "planned": begun["planned"]}
    _check_look(settings)
    # A folder of experiments.evaluate has a study.json as well, and is refused elsewhere.
    begun = begun if "seeds" in begun else settings
    axes = from_config(AxesSettings, begun.get("axes", {}))
    planned = {
        "seeds": begun["seeds"],
        "models": list(expand_models(begun["models"], axes)),
        "model_seeds": begun.get("model_seeds", {}),
        "proportions": begun["data"]["proportions"],
        "n": begun["data"]["n"],
        "primary": list(begun["primary"]) or primary_pair(begun["models"], axes, cells),
    }
    return {**settings, "planned": planned}


def _check_look(settings: Mapping[str, Any]) -> None:
    """Of a study that begins; seeds that are added later do not move its look."""
    look = settings.get("look", 0)
    count = len(settings["seeds"])
    if look and 2 * look != count:
        raise ValueError(
            f"config.look is {look} and there are {count} seeds; the look is after half of them"
        )


def primary_pair(models: Mapping[str, Any], axes: AxesSettings, cells: Sequence[Cell]) -> list[str]:
    """The shallowest and the deepest unchanged row of Table A; of all models where there is none.

    A model that is given by a name alone is such a row; controls, which change a row, are no part
    of the contrast over depth. With axes it is that of their largest values, the first axis first.
    Where both are of one depth there is no such contrast, and the pair is one model twice.
    """
    rows = {name: entry for name, entry in models.items() if isinstance(entry, str)}
    variants = expand_models(rows, axes)
    largest = max(map(axis_values, variants.values()), default=())
    unchanged = [name for name, entry in variants.items() if axis_values(entry) == largest]
    names = unchanged or list(expand_models(models, axes))
    networks = {cell.model: cell.network for cell in cells if cell.model in names}
    ranks = {
        model: (getattr(network, "depth", 0), count_parameters(network))
        for model, network in networks.items()
    }
    ordered = sorted(ranks, key=ranks.__getitem__)
    depths = [ranks[model][0] for model in ordered]
    return [ordered[0], ordered[-1] if depths[0] < depths[-1] else ordered[0]]
