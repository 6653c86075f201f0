"""What is known of a trained cell, of a set of images, and of a study. No JAX.

`jaxdiff.results` reads them from disk.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, get_type_hints

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdiff.estimates import Estimate
from jaxdiff.result_schema import has_type

# Shares as config.data.proportions has them, and the number of images.
DataKey: TypeAlias = tuple[tuple[float, ...], int]


@dataclasses.dataclass(frozen=True)
class CellInfo:
    """What a cell is: its model, its training data and its seed.

    Parameters
    ----------
    proportions
        Shares of the classes in the training data, the majority first.
    n
        Number of training images.
    parameters
        Number of trained parameters.
    flops
        Floating-point operations of the network for one image, forward; 0 where not known.
    images_seen
        Training images that all optimizer steps took, each as often as it was seen.
    learning_rate
        Its peak.
    prediction
        What the network predicts: eps, v or x0.
    bottleneck
        Size of the bottleneck, in pixels; None where it is not known.
    time_blind
        Levels whose blocks cannot see the noise level.
    """

    name: str = ""
    model: str = ""
    depth: int = 0
    proportions: tuple[float, ...] = ()
    data: str = ""
    n: int = 0
    seed: int = 0
    majority: int = -1
    minority: int = -1
    parameters: int = 0
    flops: float = 0.0
    images_seen: int = 0
    learning_rate: float = 0.0
    prediction: str = ""
    bottleneck: int | None = None
    time_blind: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CellInfo":
        """Read the object "cell" of a result.json; missing fields get their defaults."""
        return _from_json(cls, values)


@dataclasses.dataclass(frozen=True)
class SetInfo:
    """What a set of images of any origin is, and what it was compared with.

    Parameters
    ----------
    position
        Place of the set among those that were compared, from 0.
    reference
        Name of the images that stand in for the training data.
    n
        Number of images of the reference.
    trained
        Share of the minority in the training data; None without classes.
    """

    name: str = ""
    position: int = 0
    reference: str = ""
    n: int = 0
    majority: int | None = None
    minority: int | None = None
    trained: float | None = None

    @property
    def proportions(self) -> tuple[float, ...]:
        """Shares of the two classes in the training data, the majority first."""
        return () if self.trained is None else (1 - self.trained, self.trained)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SetInfo":
        """Read the object "set" of a result.json; missing fields get their defaults."""
        return _from_json(cls, values)


@dataclasses.dataclass(frozen=True)
class DepthFigure:
    """How a section is drawn against depth; the fields are those of `measures.AgainstDepth`."""

    estimate: str
    label: str
    scale: float | int = 1.0
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """The estimates of one measure, and how they are shown.

    Parameters
    ----------
    name
        Its key in result.json.
    title, caption
        Heading, and what to read the numbers for.
    topic
        Part of the report that it stands in.
    table
        Name of its CSV file.
    figure
        How it is drawn; None where the table is enough.
    estimates
        By name of the cell or set.
    """

    name: str
    title: str
    caption: str
    topic: str
    table: str
    figure: DepthFigure | None = None
    estimates: Mapping[str, Sequence[Estimate]] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Section":
        """Read a description, as `Measure.describe` gives it; estimates are not read here."""
        name = values["name"]
        figure = values.get("figure")
        return cls(
            name=name,
            title=values["title"],
            caption=values.get("caption", ""),
            topic=values.get("topic", ""),
            table=values.get("table") or name,
            figure=None if figure is None else _from_json(DepthFigure, figure),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of the images of one model or one set.

    Parameters
    ----------
    sections
        Estimates by section of result.json.
    descriptions
        How each section is shown, for those that measures/ describes.
    run
        run.json: seconds in all and by part (`jaxdiff.timing`), host and versions.
    samples, labels
        The samples and their classes, -1 where they are not known; of a published study the first
        samples and the classes of all.
    common, common_labels
        Samples of the noise bank that all seeds share, and their classes.
    nearest
        The training images nearest to each of the first samples.
    precision
        JAX's name of the measures' float32 products; empty in older results, which have none.
    """

    name: str
    info: CellInfo | SetInfo
    sections: Mapping[str, Sequence[Estimate]]
    descriptions: Mapping[str, Section]
    run: Mapping[str, Any]
    samples: UInt8[np.ndarray, "_n height width channel"]
    labels: Int[np.ndarray, " n"]
    common: UInt8[np.ndarray, "_m height width channel"]
    common_labels: Int[np.ndarray, " m"]
    nearest: UInt8[np.ndarray, "l k height width channel"]
    precision: str = ""

    def estimates(self, section: str, name: str | None = None, **labels: Any) -> list[Estimate]:
        """The estimates of a section that have this name and these labels."""
        return [
            estimate
            for estimate in self.sections.get(section, ())
            if name in (None, estimate.name)
            and all(estimate.labels.get(key) == value for key, value in labels.items())
        ]

    def find(self, section: str, name: str, **labels: Any) -> Estimate | None:
        """The first such estimate, None where there is none."""
        return next(iter(self.estimates(section, name, **labels)), None)


@dataclasses.dataclass(frozen=True)
class CheckpointLosses:
    """The eps losses of single images at each checkpoint, as losses.npz holds them.

    Parameters
    ----------
    train, unseen
        Losses of training images, and of images that the model was not trained on, by noise level;
        of a published study their means over levels.
    steps
        Optimizer steps of the checkpoints.
    t
        Timesteps.
    """

    train: Float[np.ndarray, "checkpoint _level n"]
    unseen: Float[np.ndarray, "checkpoint _level m"]
    steps: Int[np.ndarray, " checkpoint"]
    t: Int[np.ndarray, " level"]

    @property
    def last_unseen(self) -> Float[np.ndarray, " m"]:
        """The mean over noise levels of each unseen image, at the last checkpoint."""
        return self.unseen[-1].mean(axis=0, dtype=np.float64)

    @property
    def paired_gaps(self) -> Float[np.ndarray, "checkpoint n"]:
        """The loss of each unseen image minus that of a training image, means over noise levels.

        The i-th images of both sets are of one class and have the same noise. There must be as
        many of both, as the measure `checkpoints` has them.
        """
        return np.mean(self.unseen.astype(np.float64) - self.train, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult(Result):
    """A finished cell.

    Parameters
    ----------
    config
        config.json: all settings of the cell.
    metrics
        A line of metrics.jsonl each: the loss along training.
    probe
        Rows of probe.json: the curvature at single points.
    losses
        losses.npz: the losses of single images; None where they were not kept.
    """

    info: CellInfo
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Sequence[Mapping[str, float | int]] = ()
    probe: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    losses: CheckpointLosses | None = None


def data_key(cell: CellResult) -> DataKey:
    """The training data of a cell, its shares as the study's settings have them."""
    return tuple(cell.config.get("proportions", cell.info.proportions)), cell.info.n


def mixture_key(cell: CellResult) -> tuple[DataKey, int]:
    """The training data of a cell and its majority class, which odd seeds may exchange."""
    return data_key(cell), cell.info.majority


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetResult(Result):
    """A set of images that experiments.evaluate has measured."""

    info: SetInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults:
    """All results of a folder: the cells of a study, or sets of images.

    Parameters
    ----------
    settings
        study.json.
    diverged
        Cells whose training ended at a loss that was not finite.
    comparisons
        shared/comparisons.json: what was measured between cells or sets.
    confusion
        shared/confusion.json: how good the classifiers are.
    """

    settings: Mapping[str, Any]
    cells: Sequence[CellResult] = ()
    sets: Sequence[SetResult] = ()
    diverged: Sequence[CellInfo] = ()
    comparisons: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    confusion: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def results(self) -> Sequence[CellResult] | Sequence[SetResult]:
        """The cells or the sets."""
        return self.cells or self.sets

    @property
    def classifier_gate(self) -> float | None:
        """Share of held-out images of the two classes that the classifier calls one of them."""
        return self.confusion.get("gate", {}).get("held_out")

    @property
    def classifier_test_images(self) -> int:
        """Test images of the study's class that has fewer, on which the classifier was tested."""
        matrix = self.confusion.get("matrix", {}).get("convolutional", [])
        classes = self.settings.get("data", {}).get("classes")
        if classes is None:  # a class of no image is none of the study's
            return min(filter(None, map(sum, matrix)), default=0)
        return min((sum(matrix[label]) for label in classes if label < len(matrix)), default=0)


Fields = TypeVar("Fields", bound=CellInfo | SetInfo | DepthFigure)


def _from_json(cls: type[Fields], values: Mapping[str, Any]) -> Fields:
    # Older and newer files may lack fields or have more of them.
    fields = {field.name for field in dataclasses.fields(cls)}
    kinds = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key in sorted(fields & values.keys()):
        value = values[key]
        if not has_type(value, kinds[key]):
            raise ValueError(f"{key} is {value!r} and must be of the type {kinds[key]}")
        # JSON writes 1.0 of other programs as 1.
        if isinstance(value, list):
            value = tuple(map(float, value)) if kinds[key] == tuple[float, ...] else tuple(value)
        elif value is not None and kinds[key] in (float, float | None):
            value = float(value)
        arguments[key] = value
    return cls(**arguments)
