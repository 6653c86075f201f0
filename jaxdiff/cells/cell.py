"""A cell: one trained model of a study, and all that its result depends on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdiff.datasets.mixtures import exact_counts, group_counts
from jaxdiff.denoiser import config_from_json, config_to_json
from jaxdiff.measures.roles import Roles
from jaxdiff.setting_fields import from_config, to_json
from jaxdiff.settings import (
    ClassifierSettings,
    DataSettings,
    DiffusionSettings,
    MeasureSettings,
    SampleSettings,
    TrainSettings,
)

SECTIONS = {
    "diffusion": DiffusionSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "classifier": ClassifierSettings,
    "measures": MeasureSettings,
}
# Not part of config.json: a cell has one of each, or its result does not depend on them.
NOT_IN_DATA_SECTION = ("proportions", "n", "dir", "cache")

# Cells that were trained before these settings existed have their defaults, and are the same
# cells: their files do not name them.
NEWER_TRAIN_SETTINGS = {name: getattr(TrainSettings, name) for name in ("warmup_steps", "cooldown")}
NEWER_DATA_SETTINGS = {name: getattr(DataSettings, name) for name in ("others", "others_share")}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trained model of a study.

    Parameters
    ----------
    name
        Name of its folder.
    model
        Its name in ``config.models``.
    network
        The configuration of its network: a dataclass of a family in `jaxdiff.denoiser.MODELS`.
    shares
        Shares of the two classes among their images, majority first; or of the four groups.
    n
        Number of training images.
    seed
        Seed of initialization, batches, training images and samples.
    majority, minority
        The two classes.
    data
        The data settings, with one size of training set and one mixture.
    diffusion, train, sample, classifier, measures
        The other settings.
    stem
        Name of the cell whose training this one's begins as; "" for none (`study.stems`). The
        result does not depend on it, nor on `branch_steps`.
    branch_steps
        Steps at which cells start from this one.
    """

    name: str
    model: str
    network: Any
    shares: tuple[float, ...]
    n: int
    seed: int
    majority: int
    minority: int
    data: DataSettings
    diffusion: DiffusionSettings
    train: TrainSettings
    sample: SampleSettings
    classifier: ClassifierSettings
    measures: MeasureSettings
    stem: str = ""
    branch_steps: tuple[int, ...] = ()

    @property
    def first_step(self) -> int:
        """The step that training starts from: where the cooldown begins after a stem, else 0."""
        return self.train.stem_steps if self.stem else 0

    @property
    def is_grouped(self) -> bool:
        """Whether the training images are chosen by group (each class without and with it)."""
        return len(self.shares) == 4

    @property
    def counts(self) -> dict[int, int]:
        """Training images of each class, majority first; or of each group (2 class + attribute).

        Raises
        ------
        ValueError
            Where n cannot be split at these shares.
        """
        if self.is_grouped:
            classes = (self.majority, self.minority)
            groups = [2 * label + attribute for label in classes for attribute in (0, 1)]
            return dict(zip(groups, group_counts(self.n, self.shares), strict=True))
        mix = self.roles.mix
        # As they were written, where nothing was computed with them.
        shares = list(mix.values()) if self.data.others else self.shares
        return dict(zip(mix, exact_counts(self.n, shares), strict=True))

    @property
    def roles(self) -> Roles:
        """The two classes and the others of the training data."""
        return Roles(
            self.majority,
            self.minority,
            self.proportions[1],
            self.data.others,
            self.data.others_share,
        )

    @property
    def proportions(self) -> tuple[float, float]:
        """Shares of the two classes among their training images, majority first."""
        if not self.is_grouped:
            if len(self.shares) != 2:
                raise ValueError(
                    f"config.data.proportions holds {self.shares}; it needs one share for each of "
                    "the two classes, or of the four groups"
                )
            return self.shares[0], self.shares[1]
        counts = list(self.counts.values())
        total = sum(counts)
        return sum(counts[:2]) / total, sum(counts[2:]) / total

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.data.size, self.data.size, self.data.channels

    def to_json(self) -> dict[str, Any]:
        """The content of the cell's config.json."""
        data = _without(NEWER_DATA_SETTINGS, to_json(self.data))
        return {
            "model": self.model,
            "unet": config_to_json(self.network),
            "proportions": list(self.shares),
            "n": self.n,
            "seed": self.seed,
            "majority": self.majority,
            "minority": self.minority,
            "data": {key: data[key] for key in data if key not in NOT_IN_DATA_SECTION},
            **{name: to_json(getattr(self, name)) for name in SECTIONS},
            # In place of the section above, which has the newer settings too.
            "train": _without(NEWER_TRAIN_SETTINGS, to_json(self.train)),
        }

    @classmethod
    def from_json(cls, name: str, config: Mapping[str, Any]) -> "Cell":
        """The cell whose config.json this is.

        Raises
        ------
        ValueError
            Naming the key, where the file holds settings that do not exist.
        """
        n = config["n"]
        shares = tuple(config["proportions"])
        data = {**config["data"], "n": (n,), "proportions": (shares,)}
        sections: dict[str, Any] = {
            key: from_config(kind, config[key]) for key, kind in SECTIONS.items()
        }
        return cls(
            name,
            config["model"],
            config_from_json(config["unet"]),
            shares,
            n,
            config["seed"],
            config["majority"],
            config["minority"],
            from_config(DataSettings, data),
            **sections,
        )


def _without(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings except newer ones that have their defaults."""
    return {
        key: value
        for key, value in settings.items()
        if key not in defaults or value != to_json(defaults[key])
    }
