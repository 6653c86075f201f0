"""The registered measures on images of any origin: sets of samples against a reference.

Each set is a folder WORKDIR/sets/NAME with the files that a cell has, as far as they apply.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int, UInt8

from jaxdiff import files, results
from jaxdiff.cells.classifiers import Classifiers, run_classifiers
from jaxdiff.cells.measuring import ResultFolder, run_measures
from jaxdiff.cells.selections import match_unseen
from jaxdiff.datasets.dataset import Dataset, Split
from jaxdiff.datasets.mixtures import draw_images
from jaxdiff.datasets.registry import load_splits
from jaxdiff.features.extractors import load_extractor
from jaxdiff.measures.artifacts import Images
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.registry import MEASURES
from jaxdiff.measures.roles import Roles
from jaxdiff.precision import measuring
from jaxdiff.progress import Progress, no_progress
from jaxdiff.provenance import describe_environment
from jaxdiff.records import remove_record, write_record
from jaxdiff.sampling import Sampler
from jaxdiff.setting_fields import to_json
from jaxdiff.settings import ClassifierSettings, MeasureSettings
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Outputs, Redo, reserve_folder


@dataclasses.dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    Parameters
    ----------
    name
        Name of the dataset, folder or file.
    images
        Stand in for the training images.
    held_out
        Images like the reference that no model was trained on.
    splits
        A dataset's pools, from which classifiers can be trained.
    classes
        Names of the dataset's classes.
    dataset_id
        All that the pools depend on.
    """

    name: str
    images: Images
    held_out: Images | None = None
    splits: Mapping[str, Split] | None = None
    classes: tuple[str, ...] = ()
    dataset_id: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, cache: epath.Path, progress: Progress = no_progress
    ) -> "Reference":
        """The generator's pool as the reference; the other pools for unseen images."""
        splits = load_splits(dataset, cache, np.sort(dataset.pools["generator"]), progress)
        return cls(
            dataset.name,
            splits["train"].images,
            splits["held_out"].images,
            splits,
            dataset.classes,
            dataset.contents,
        )

    @functools.cached_property
    def digest(self) -> str:
        """Fingerprint of the images."""
        arrays = [self.images] if self.held_out is None else [self.images, self.held_out]
        return files.array_digest(*arrays)

    @functools.cached_property
    def matched(self) -> MatchedSplits | None:
        """As many images of the reference as of those that no model was trained on.

        A dataset's are matched class by class, see `match_unseen`; of other images, whose classes
        are not known, the larger set gives a random subset.
        """
        if self.splits is not None:
            return match_unseen(self.splits)
        if self.held_out is None:
            return None
        sets = (self.images, self.held_out)
        count = min(len(images) for images in sets)
        subsets = [draw_images(images, count) for images in sets]
        return MatchedSplits(*subsets)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and what the samples are of.

    Parameters
    ----------
    measures
        Settings of the measures.
    roles
        Majority, minority, and the minority's share of the training data; None measures no
        shares.
    same_noise
        Whether the i-th image of every set comes from the same noise.
    classifier
        Settings of the classifiers that read the shares.
    """

    measures: MeasureSettings
    roles: Roles | None = None
    same_noise: bool = False
    classifier: ClassifierSettings = dataclasses.field(default_factory=ClassifierSettings)


@dataclasses.dataclass(frozen=True)
class UnlabeledImages:
    """Images of unknown class."""

    images: Images

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """-1 for every image."""
        return np.full(len(self.images), -1)


class SetContext(ResultFolder):
    """The artifacts of one set (see `jaxdiff.measures.artifacts.Artifacts`).

    There is no trained model, and nothing is known of the reference's own training.
    """

    denoised_confusion = None
    sampler = None
    leveled_sampler = None
    random_sampler = None
    checkpoints = None
    common_samples = None
    held_out_of_classes = None
    seed = 0

    def __init__(
        self,
        name: str,
        samples: Images,
        reference: Reference,
        settings: EvaluationSettings,
        workdir: epath.Path,
        progress: Progress = no_progress,
    ):
        self.name = name
        self.samples = samples
        self.reference = reference
        self.evaluation = settings
        self.settings = settings.measures
        self.roles = settings.roles if reference.splits is not None else None
        self.folder = workdir / "sets" / name
        self.progress = progress
        self.classifiers = Classifiers(workdir / "shared")
        self.outputs: dict[str, Outputs] = {}

    @property
    def train(self) -> UnlabeledImages:
        return UnlabeledImages(self.reference.images)

    @property
    def held_out(self) -> Images | None:
        return self.reference.held_out

    @property
    def matched(self) -> MatchedSplits | None:
        return self.reference.matched

    @functools.cached_property
    def predictions(self) -> Predictions | None:
        return None if self.roles is None else self.classifiers.predict(self.samples)

    @property
    def confusion(self) -> Int[np.ndarray, "t c"] | None:
        return None if self.roles is None else self.classifiers.confusion

    def predict(self, images: Images) -> Predictions:
        return self.classifiers.predict(images)

    def unseen(self, count: int) -> Images:
        """There are none: nothing is known of the classes of the reference."""
        raise ValueError("a set of images has no unseen images of its own")

    def sampler_at(self, step: int) -> Sampler:
        """There is none: a set of images has no model."""
        raise ValueError("a set of images has no model")

    def has(self, name: str) -> bool:
        """Whether an artifact, or another measure's result, exists."""
        if name in self.outputs:
            return True
        if name == "unseen":
            return False
        if name in ("predictions", "confusion", "predict"):
            return self.roles is not None
        return getattr(self, name, None) is not None

    def digest(self, name: str) -> Any:
        """All that an artifact, or another measure, depends on, as JSON holds it."""
        if name == "samples":
            return files.array_digest(self.samples)
        if name in ("predictions", "confusion", "predict"):
            samples = files.array_digest(self.samples)
            return [self.outputs["classifiers"], samples, code_digest(Classifiers)]
        if name in self.outputs:
            return self.outputs[name]
        roles = None if self.roles is None else dataclasses.asdict(self.roles)
        if name == "matched":
            dataset_id = self.reference.dataset_id
            return {
                "reference": self.reference.digest,
                "dataset": dict(dataset_id),
                "code": code_digest(match_unseen),
            }
        return {"reference": self.reference.digest, "roles": roles}


def evaluate(
    sets: Mapping[str, Images],
    reference: Reference,
    settings: EvaluationSettings,
    workdir: epath.Path,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> None:
    """Measure every set, and write study.json, sets/NAME/ and shared/ for the report.

    Raises
    ------
    ValueError
        Where images have different shapes, k is larger than the reference, or the workdir holds
        another study.
    """
    check_sets(sets, reference, settings)
    reserve_folder(workdir / "study.json", describe_evaluation(sets, reference, settings))
    classifier_outputs: Outputs = {}
    if settings.roles is not None and reference.splits is not None:
        splits = reference.splits
        classifier_outputs = run_classifiers(
            workdir / "shared",
            settings.classifier,
            reference.dataset_id,
            settings.roles.classes,
            len(reference.classes),
            lambda: splits,
            progress=progress,
            redo=redo,
        )
    for position, (name, images) in enumerate(sets.items()):
        context = SetContext(name, images, reference, settings, workdir, progress)
        context.outputs["classifiers"] = classifier_outputs
        write_set(context, position, redo)
        progress("evaluate", position + 1, len(sets), name)


def write_set(context: SetContext, position: int, redo: Redo = NO_REDO) -> None:
    """Measure one set and write its folder."""
    folder = context.folder
    # From here to `write_record` the files count as unfinished, not as changed by hand.
    remove_record(folder, "set")
    indices = np.arange(len(context.samples))
    results.write_samples(folder / "samples.npz", context.samples, indices)
    # `run_stage` would enter it, and this is no stage.
    with measuring():
        predictions = context.predictions
    if predictions is None:
        arrays = {"label": np.full(len(indices), -1)}
    else:
        arrays = predictions.to_arrays()
    # Sets are compared by their common bank (`pairwise.Pair.bank`): the samples themselves.
    if context.evaluation.same_noise:
        results.write_samples(folder / "common.npz", context.samples, indices)
        arrays["common"] = arrays["label"]
    results.write_npz(folder / "classes.npz", **arrays)
    measured = run_measures(MEASURES.values(), context, redo)
    roles = context.roles
    description = {
        "name": context.name,
        "position": position,
        "reference": context.reference.name,
        "n": len(context.reference.images),
        "majority": None if roles is None else roles.majority,
        "minority": None if roles is None else roles.minority,
        "trained": None if roles is None else roles.trained,
    }
    files.write_json(folder / "run.json", describe_environment())
    context.write_result({"set": description}, list(measured))
    common = ["common.npz"] if context.evaluation.same_noise else []
    outputs = ["classes.npz", "result.json", "run.json", "samples.npz", *common]
    write_record(folder, "set", outputs)


def describe_evaluation(
    sets: Mapping[str, Images], reference: Reference, settings: EvaluationSettings
) -> dict[str, Any]:
    """The content of study.json."""
    height, width = reference.images.shape[1:3]
    roles = settings.roles
    return {
        "name": f"{', '.join(sets)} against {reference.name}",
        "data": {
            "source": reference.name,
            "size": [height, width],
            "classes": [] if roles is None else list(roles.classes),
            "trained": None if roles is None else roles.trained,
            "n": len(reference.images),
            "sets": list(sets),
        },
        "measures": to_json(settings.measures) | {"same_noise": settings.same_noise},
    }


def check_sets(
    sets: Mapping[str, Images], reference: Reference, settings: EvaluationSettings
) -> None:
    """Raise ValueError, before anything is written, where sets cannot be measured."""
    compared = dict(sets)
    if reference.held_out is not None:
        compared["the held-out images"] = reference.held_out
    for name, images in compared.items():
        _check_shape(name, images, reference)
    roles = settings.roles
    if roles is not None and max(roles.classes) >= len(reference.classes):
        names = [f"{i} ({name})" for i, name in enumerate(reference.classes)]
        raise ValueError(
            f"the class {max(roles.classes)} was asked for; those of {reference.name} are "
            + (", ".join(names) or "not known")
        )
    largest_k = max(settings.measures.k)
    if largest_k > len(reference.images):
        raise ValueError(
            f"k is {largest_k} and {reference.name} holds only {len(reference.images)} images"
        )
    sizes = {name: len(images) for name, images in sets.items()}
    if settings.same_noise and len(set(sizes.values())) > 1:
        raise ValueError(
            f"sets of the same noise need one image for each noise, but their sizes are {sizes}"
        )
    # Missing weights and images that are too small for a network end here, too.
    for space in settings.measures.spaces:
        load_extractor(space, settings.measures.inception or None)
    if settings.measures.lpips != "none":
        network = LPIPS.load(settings.measures.lpips, settings.measures.weights_dir or None)
        network.check_images(reference.images)


def _check_shape(name: str, images: UInt8[np.ndarray, "n h w c"], reference: Reference) -> None:
    if images.shape[1:] == reference.images.shape[1:]:
        return
    shape = " x ".join(map(str, images.shape[1:]))
    reference_shape = " x ".join(map(str, reference.images.shape[1:]))
    same_channels = images.shape[-1] == reference.images.shape[-1]
    hint = "give --size" if same_channels else "convert one of them"
    raise ValueError(
        f"{name} are of {shape} and {reference.name} of {reference_shape} (gray is 1, RGB 3); "
        f"{hint}"
    )
