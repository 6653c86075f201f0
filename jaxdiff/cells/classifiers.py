"""The two classifiers of a study, trained once: what images are, and how often that is wrong."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Int, UInt8

from jaxdiff import files, results
from jaxdiff.datasets.dataset import Split
from jaxdiff.denoiser import Params
from jaxdiff.features import classifier
from jaxdiff.measures.confusion import confusion_matrix
from jaxdiff.measures.predictions import Predictions
from jaxdiff.progress import Progress, no_progress
from jaxdiff.setting_fields import to_json
from jaxdiff.settings import ClassifierSettings
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Outputs, Redo, run_stage

FIRST = "convolutional"  # the architecture whose labels are reported
SECOND = "perceptron"  # the architecture that it is compared with
FILES = ("confusion.json", *(f"{name}.npz" for name in classifier.ARCHITECTURES))


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """The trained classifiers in a study's shared folder."""

    folder: epath.Path

    def exist(self) -> bool:
        """Whether they are trained."""
        return (self.folder / "confusion.json").exists()

    @functools.cached_property
    def params(self) -> dict[str, Params]:
        """Parameters by architecture."""
        return {name: self._load(name) for name in classifier.ARCHITECTURES}

    def _load(self, name: str) -> Params:
        arrays = results.read_npz(self.folder / f"{name}.npz")
        return {key: jnp.asarray(value) for key, value in arrays.items()}

    @property
    def confusion(self) -> Int[np.ndarray, "t c"]:
        """Counts [true label, predicted label] of the first classifier on test images."""
        return np.array(files.read_json(self.folder / "confusion.json")["matrix"][FIRST])

    def classify(self, images: UInt8[np.ndarray, "n h w c"]) -> Int[np.ndarray, " n"]:
        """Labels by the first classifier."""
        return classifier.classify(self.params[FIRST], images)[0]

    def predict(self, images: UInt8[np.ndarray, "n h w c"]) -> Predictions:
        """What both classifiers see in the images."""
        labels, probabilities = classifier.classify(self.params[FIRST], images)
        second_labels = classifier.classify(self.params[SECOND], images)[0]
        return Predictions(labels, probabilities, second_labels)


def train_classifiers(
    settings: ClassifierSettings,
    classes: Sequence[int],
    num_classes: int,
    folder: epath.Path,
    splits: Mapping[str, Split],
) -> float:
    """Train two architectures alike and write them with their confusion matrices.

    Parameters
    ----------
    settings
        How long they are trained.
    classes
        The classes of the training data.
    num_classes
        Classes of the dataset; where there are no others, nothing is said of other classes.
    folder
        The study's shared folder.
    splits
        The dataset's pools.

    Returns
    -------
    gate
        Fraction of held-out images of these classes that are classified as one of them.
    """
    train = splits["classifier"]
    test = splits["classifier_test"]
    matrices = {}
    for name in classifier.ARCHITECTURES:
        params = classifier.train(
            train.images,
            train.labels,
            steps=settings.steps,
            num_classes=num_classes,
            architecture=name,
        )
        labels = classifier.classify(params, test.images)[0]
        matrices[name] = confusion_matrix(test.labels, labels, num_classes + 1).tolist()
        arrays = {key: np.asarray(value) for key, value in params.items()}
        results.write_npz(folder / f"{name}.npz", **arrays)
    gate = _gate(Classifiers(folder), classes, splits["held_out"])
    files.write_json(folder / "confusion.json", {"matrix": matrices, "gate": gate})
    return float(gate["held_out"] or 0.0)


def _gate(
    classifiers: Classifiers, classes: Sequence[int], held_out: Split
) -> dict[str, float | None]:
    """Held-out images that pass as one of the classes: of these, and of others."""
    passes = np.isin(classifiers.classify(held_out.images), classes)
    is_class = np.isin(held_out.labels, classes)
    others = None if is_class.all() else float(passes[~is_class].mean())
    return {"held_out": float(passes[is_class].mean()), "other_classes": others}


def run_classifiers(
    folder: epath.Path,
    settings: ClassifierSettings,
    dataset_id: Mapping[str, Any],
    classes: Sequence[int],
    num_classes: int,
    load_splits: Callable[[], Mapping[str, Split]],
    *,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> Outputs:
    """Train the classifiers unless they are there; the checksums of their files.

    Parameters
    ----------
    folder
        The study's shared folder.
    dataset_id
        All that the images and their labels depend on.
    load_splits
        Gives the dataset's pools; it is called where the classifiers are to be trained.

    Other parameters are those of `train_classifiers`.
    """

    def make() -> None:
        progress("classifiers", 0, 1, "")
        gate = train_classifiers(settings, classes, num_classes, folder, load_splits())
        progress("classifiers", 1, 1, f"gate on held-out images {gate:.2f}")

    inputs = {
        "dataset": dataset_id,
        "classes": sorted(classes),
        "settings": to_json(settings),
        "code": code_digest(train_classifiers),
    }
    return run_stage(folder, "classifiers", inputs, FILES, make, part="classifiers", redo=redo)
