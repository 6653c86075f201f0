"""The artifacts of one cell: what its measures read, loaded or computed when it is asked for."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Int

from jaxdiff import checkpoints, files, models, results, timing
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.classifiers import Classifiers
from jaxdiff.cells.data import (
    DataPaths,
    cell_training_set,
    open_cell_dataset,
)
from jaxdiff.cells.denoising import denoised_confusion
from jaxdiff.cells.measuring import ResultFolder
from jaxdiff.cells.selections import (
    UNSEEN_POOLS,
    match_unseen,
    select_held_out,
    select_held_out_of_classes,
    select_unseen,
)
from jaxdiff.cells.train_step import network_flops
from jaxdiff.datasets.dataset import Dataset, Split
from jaxdiff.datasets.mixtures import match_counts
from jaxdiff.datasets.registry import load_splits
from jaxdiff.denoiser import (
    LeveledDenoiser,
    abstract_network,
    count_parameters,
    random_network,
)
from jaxdiff.measures.artifacts import Images
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.roles import Roles
from jaxdiff.progress import Progress, no_progress
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler, sampling_code_digest
from jaxdiff.setting_fields import to_json
from jaxdiff.settings import MeasureSettings
from jaxdiff.source_code import code_digest
from jaxdiff.stage import Outputs

DATA_ARTIFACTS = ("roles", "seed", "train")
# Chosen among the pools by `jaxdiff.cells.selections`.
SELECTED_ARTIFACTS = ("held_out", "held_out_of_classes", "matched", "unseen")


class CellContext(ResultFolder):
    """The artifacts of a trained cell (see `jaxdiff.measures.artifacts.Artifacts`).

    Parameters
    ----------
    cell
        The cell.
    workdir
        The study's folder.
    paths
        Where its data are.
    progress
        Told of long work.
    track
        Names of the trackers that the cell is shown by.

    Attributes
    ----------
    outputs
        Checksums of what each finished stage wrote, by the stage's name. They are what the
        measures' fingerprints are made of.
    """

    def __init__(
        self,
        cell: Cell,
        workdir: epath.Path,
        paths: DataPaths,
        progress: Progress = no_progress,
        track: Sequence[str] = (),
    ):
        self.cell = cell
        self.workdir = workdir
        self.folder = workdir / "cells" / cell.name
        self.paths = paths
        self.progress = progress
        self.track = tuple(track)
        self.classifiers = Classifiers(workdir / "shared")
        self.outputs: dict[str, Outputs] = {}

    # ---- settings and data ----

    @property
    def settings(self) -> MeasureSettings:
        return self.cell.measures

    @property
    def seed(self) -> int:
        return self.cell.seed

    @property
    def roles(self) -> Roles:
        return self.cell.roles

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The cell's dataset, described and not yet decoded."""
        return open_cell_dataset(self.cell, self.paths.data_dir)

    @functools.cached_property
    def splits(self) -> Mapping[str, Split]:
        """The training images and the pools of the dataset."""
        cache = self.paths.cache_dir(self.workdir)
        with timing.clock("preparing data"):
            return load_splits(self.dataset, cache, self._training_set, self.progress)

    def check_prepared(self) -> None:
        """Check the bytes of the prepared dataset, which finished stages do not read."""
        self.dataset.check_prepared(self.paths.cache_dir(self.workdir))

    def check_training_data(self, folder: epath.Path) -> None:
        """Check that the images at hand are those that the cell in this folder was trained on.

        Raises
        ------
        ValueError
            Where the dataset is another one, or other images of it would be chosen.
        """
        path = folder / "data.json"
        if not path.exists():
            return
        recorded = files.read_json(path)
        dataset = self.dataset
        if recorded["dataset"] != dataset.contents:
            first = files.difference(recorded["dataset"], dataset.contents, "dataset")
            raise ValueError(
                f"{folder} was trained on other data than {dataset.source.about} ({first}); give "
                "its own as --data_dir, or use the version of jaxdiff that trained it"
            )
        # Older cells do not name their training images.
        if recorded.get("training_set", self._training_digest) != self._training_digest:
            raise ValueError(
                f"{folder} was trained on other images of {dataset.source.about} than would be "
                "chosen now; use the version of jaxdiff that trained it"
            )

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @functools.cached_property
    def held_out(self) -> Images:
        return select_held_out(self.splits, self.roles).images

    @property
    def held_out_of_classes(self) -> Images:
        return self._held_out_of_classes.images

    @functools.cached_property
    def _held_out_of_classes(self) -> Split:
        return select_held_out_of_classes(self.splits, self.roles)

    @functools.cached_property
    def matched(self) -> MatchedSplits | None:
        return match_unseen(self.splits, self._groups)

    @functools.cached_property
    def _can_be_matched(self) -> bool:
        """Whether there are matched images, without decoding one."""
        dataset = self.dataset
        strata = dataset.labels if self._groups is None else self._groups
        unseen = np.concatenate([dataset.pools[name] for name in UNSEEN_POOLS])
        return any(match_counts(strata[self._training_set], strata[unseen]).values())

    @property
    def _groups(self) -> Int[np.ndarray, " image"] | None:
        """Group of each image of the dataset, where the training images are chosen by group."""
        if not self.cell.is_grouped:
            return None
        assert self.dataset.groups is not None
        return self.dataset.groups

    @functools.cached_property
    def _training_set(self) -> Int[np.ndarray, " n"]:
        """Indices of the training images; no image is decoded."""
        return cell_training_set(self.cell, self.dataset)

    @functools.cached_property
    def _training_digest(self) -> str:
        return files.array_digest(self._training_set)

    def unseen(self, count: int) -> Images:
        return select_unseen(self.splits, self.roles, count).images

    # ---- the trained model ----

    @property
    def sampler_spec(self) -> SamplerSpec:
        """How the cell is sampled."""
        return SamplerSpec.from_settings(to_json(self.cell.sample))

    def make_sampler(self, all_processes: bool = False) -> Sampler:
        """A sampler with the weights of the last checkpoint."""
        return Sampler(
            models.load(self.folder),
            self.sampler_spec,
            batch=self.cell.sample.batch,
            progress=self.progress,
            all_processes=all_processes,
            dtype=self.cell.sample.dtype,
        )

    @property
    def sampler(self) -> Sampler:
        return self._last_sampler

    @functools.cached_property
    def _last_sampler(self) -> Sampler:
        return self.make_sampler()

    @property
    def leveled_sampler(self) -> Sampler | None:
        return self.sampler if self._has_levels else None

    @functools.cached_property
    def _has_levels(self) -> bool:
        return isinstance(abstract_network(self.cell.network), LeveledDenoiser)

    @property
    def checkpoints(self) -> Sequence[int] | None:
        return checkpoints.list_steps(self.folder / "checkpoints")

    def sampler_at(self, step: int) -> Sampler:
        return self._sampler_of(models.load(self.folder, step).unet)

    @property
    def random_sampler(self) -> Sampler | None:
        return self._sampler_of(random_network(self.cell.network, self.cell.seed))

    def _sampler_of(self, network: nnx.Module) -> Sampler:
        """The sampler with other weights of the same network."""
        sampler = copy.copy(self.sampler)  # shares the compiled programs
        sampler.set_params(network)
        return sampler

    # ---- samples and what the classifiers see in them ----

    @property
    def samples(self) -> Images:
        return self._stored_samples

    @functools.cached_property
    def _stored_samples(self) -> Images:
        return results.read_npz(self.folder / "samples.npz")["arr_0"]

    @property
    def common_samples(self) -> Images | None:
        path = self.folder / "common.npz"
        return results.read_npz(path)["arr_0"] if self.cell.sample.common else None

    @functools.cached_property
    def predictions(self) -> Predictions:
        arrays = results.read_npz(self.folder / "classes.npz")
        return Predictions.from_arrays(arrays)

    @property
    def confusion(self) -> Int[np.ndarray, "t c"]:
        return self.classifiers.confusion

    @property
    def denoised_confusion(self) -> Int[np.ndarray, "t c"] | None:
        return np.array(files.read_json(self.folder / "denoised.json")["matrix"])

    def predict(self, images: Images) -> Predictions:
        return self.classifiers.predict(images)

    def write_classes(self) -> None:
        """Write classes.npz: both classifiers' labels of the samples and of the common ones."""
        arrays = self.classifiers.predict(self.samples).to_arrays()
        if self.common_samples is not None:
            arrays["common"] = self.classifiers.classify(self.common_samples)
        results.write_npz(self.folder / "classes.npz", **arrays)

    def write_denoised(self) -> None:
        """Write denoised.json: the confusion of held-out images that the cell has denoised."""
        images = self._held_out_of_classes
        matrix = denoised_confusion(self.sampler, self.classifiers, images, self.cell.seed)
        files.write_json(self.folder / "denoised.json", {"matrix": matrix.tolist()})

    # ---- what the measures' fingerprints are made of ----

    def has(self, name: str) -> bool:
        """Whether an artifact exists; nothing is loaded."""
        if name == "common_samples":
            return self.cell.sample.common > 0
        if name == "matched":
            return self._can_be_matched
        return name != "leveled_sampler" or self._has_levels

    def digest(self, name: str) -> Any:
        """All that an artifact, or another measure, depends on, as JSON holds it."""
        if name in ("samples", "common_samples"):
            return self.outputs["sample"]
        if name == "predictions":
            return self.outputs["classify"]
        if name == "confusion":
            return self.outputs["classifiers"]
        if name == "predict":
            return {"trained": self.outputs["classifiers"], "code": code_digest(Classifiers)}
        if name == "denoised_confusion":
            return self.outputs["denoise"]
        if name in ("sampler", "leveled_sampler", "random_sampler", "checkpoints"):
            return {
                "trained": self.training_inputs(),
                "sample": to_json(self.cell.sample),
                "code": sampling_code_digest(self.sampler_spec),
            }
        if name in SELECTED_ARTIFACTS:
            code = code_digest(select_unseen)  # in one module with the others
            return {"data": self.data_digest(), "code": code}
        if name in DATA_ARTIFACTS:
            return self.data_digest()
        return self.outputs[name]  # another measure

    def data_digest(self) -> dict[str, Any]:
        """The dataset, the training images and the roles of the classes."""
        config = self.cell.to_json()
        keys = ("data", "n", "proportions", "seed")
        return {
            **{key: config[key] for key in keys},
            "dataset": self.dataset.contents,
            "training_set": self._training_digest,
            "roles": dataclasses.asdict(self.roles),
        }

    def training_inputs(self) -> dict[str, Any]:
        """What the trained weights depend on: settings and data, not the text of the code."""
        config = self.cell.to_json()
        inputs = {
            key: config[key] for key in config if key not in ("sample", "classifier", "measures")
        }
        return inputs | {"dataset": self.dataset.contents} | self._init_digest()

    def training_data(self) -> dict[str, Any]:
        """What training reads from disk: the data, and the weights that it starts from."""
        data = {"dataset": self.dataset.contents, "training_set": self._training_digest}
        return data | self._init_digest()

    def _init_digest(self) -> dict[str, Any]:
        init = self.cell.train.init
        return {"init": models.weights_digest(init)} if init else {}


def open_trained_cell(
    folder: epath.Path, workdir: epath.Path, paths: DataPaths, progress: Progress = no_progress
) -> CellContext:
    """The data of a trained cell, wherever its folder is; they are prepared under `workdir`.

    Raises
    ------
    ValueError
        Where the images at hand are not those that the cell was trained on.
    """
    cell = Cell.from_json(folder.name, models.load_spec(folder).settings)
    context = CellContext(cell, workdir, paths, progress)
    context.check_training_data(folder)
    return context


def describe_cell(context: CellContext) -> dict[str, Any]:
    """What result.json says of the cell itself."""
    cell = context.cell
    network = cell.network
    has_levels = hasattr(network, "time_blind")
    return {
        "name": cell.name,
        "model": cell.model,
        "depth": getattr(network, "depth", 0),
        "proportions": list(cell.proportions),
        "data": context.dataset.source.about,
        "n": cell.n,
        "seed": cell.seed,
        "majority": cell.majority,
        "minority": cell.minority,
        "parameters": count_parameters(network),
        "flops": network_flops(network, cell.image_shape),
        "images_seen": cell.train.steps * cell.train.batch,
        "learning_rate": cell.train.learning_rate,
        "prediction": cell.diffusion.prediction,
        "bottleneck": network.bottleneck(cell.data.size) if has_levels else None,
        "time_blind": list(network.time_blind) if has_levels else [],
    }
