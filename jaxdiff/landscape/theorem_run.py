"""The theorems' laboratory as a command runs it, from a dataset to files.

Writes theorems.json, and the figures' arrays as grids.npz and retrieval.npz. A part that is done
is skipped when the same command runs again.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files, results
from jaxdiff.datasets import registry
from jaxdiff.datasets.images import to_uint8
from jaxdiff.landscape import laboratory
from jaxdiff.progress import Progress
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, reserve_folder, run_stage

FIGURE_3 = (0.5, 0.6, 0.7, 0.8, 0.9)  # the paper's proportions of the majority
NUM_DRAWN = 8  # samples of each temperature that the figure shows

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a run."""

    grids: int = 2000  # behind each simulated share
    side: int = 32  # cells on a side of a grid
    source: str = "digits"  # the dataset that images are retrieved from
    data_dir: str | None = None
    size: int = 16  # pixels on a side
    classes: tuple[int, int] = (6, 9)
    n: int = 200  # images in each memory
    majorities: tuple[float, ...] = (0.9, 0.8, 0.6, 0.5)  # the majority's shares of them
    rhos: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of the smoothed sampler
    samples: int = 1000  # behind each share
    steps: int = 50  # of DDIM
    ks: tuple[int, ...] = (1, 3, 5, 11, 25, 51, 101)  # neighbors of the hard vote
    # Where minima are counted, in units of the median squared distance to the nearest image.
    taus: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    seed: int = 0  # of everything that is drawn

    def to_json(self) -> Json:
        """All but where the data are, on which results do not depend."""
        fields = dataclasses.asdict(self)
        del fields["data_dir"]
        for name, value in fields.items():
            if isinstance(value, tuple):
                fields[name] = list(value)
        return fields


class Memory(NamedTuple):
    """Indices of the images of a memory, with its majority's share and class."""

    share: float
    majority: int
    indices: Int[np.ndarray, " n"]


def run(
    options: Options,
    workdir: epath.Path,
    cache: epath.Path,
    progress: Progress,
    redo: Redo = NO_REDO,
) -> Json:
    """Run what is not done yet; the content of theorems.json.

    Raises ValueError where the dataset has too few images, or the workdir holds another run.
    """
    dataset = registry.open_dataset(
        options.source,
        size=options.size,
        channels=registry.default_channels(options.source),
        data_dir=options.data_dir,
    )
    redo.check_all_matched(["laboratory", "grids", "retrieval"])
    # Too few images end the run before anything is written.
    memories = select_memories(options, dataset)
    settings = options.to_json()
    reserve_folder(workdir / "config.json", settings)
    theorems: Json = {"about": dataset.source.about, "settings": settings}

    def run_part(name: str, arrays: tuple[str, ...], make: Callable[[], Json]) -> None:
        path = f"parts/{name}.json"
        # One digest for all parts: that of this module and of what it imports.
        inputs = {
            "settings": settings,
            "data": dataset.contents,
            "memories": files.array_digest(*(memory.indices for memory in memories)),
            "code": code_digest(run_theorem1),
        }
        outputs = (path, *arrays)
        run_stage(
            workdir,
            name,
            inputs,
            outputs,
            lambda: files.write_json(workdir / path, make()),
            redo=redo,
        )
        theorems.update(files.read_json(workdir / path))

    make_grids = functools.partial(run_grids, options, workdir, progress)
    make_retrieval = functools.partial(
        run_retrieval, options, MemoryImages(dataset, cache, memories), workdir, progress
    )
    run_part("laboratory", (), run_theorem1)
    run_part("grids", ("grids.npz",), make_grids)
    run_part("retrieval", ("retrieval.npz",), make_retrieval)
    files.write_json(workdir / "theorems.json", theorems)
    return theorems


def run_theorem1() -> Json:
    """Theorem 1's cases, one row per level."""
    return {"laboratory": [dataclasses.asdict(row) for row in laboratory.theorem1_levels()]}


def run_grids(options: Options, workdir: epath.Path, progress: Progress) -> Json:
    """Figure 3's grids, simulated and in closed form, and both of Theorem 2's laws."""
    rows = []
    arrays = {}
    for i, p in enumerate(FIGURE_3):
        progress("grids", i, len(FIGURE_3), f"{p:.0%}")
        levels, shares = laboratory.simulate_grids(
            p,
            side=options.side,
            count=options.grids,
            rng=np.random.default_rng([options.seed, i]),
        )
        rows += [dataclasses.asdict(share) for share in shares]
        for a, grid in enumerate(levels):
            arrays[f"{i}-{a}"] = grid.astype(np.int8)
    results.write_npz(workdir / "grids.npz", **arrays)
    progress("grids", len(FIGURE_3), len(FIGURE_3), "")

    laws = []
    for law_shares in laboratory.law_shares():
        law = dataclasses.asdict(law_shares)
        by_features = law.pop("by_features")
        laws.append(law | {f"S = {features:g}": p for features, p in by_features.items()})
    return {"grids": rows, "laws": laws}


def select_memories(options: Options, dataset: registry.Dataset) -> list[Memory]:
    """The images of each memory: every share of the majority, either class as the majority.

    Raises ValueError where the dataset has too few images.
    """
    memories: list[Memory] = []
    for share in options.majorities:
        for majority, minority in (options.classes, options.classes[::-1]):
            # Rounded down: the majority is not the smaller class of an odd number of images.
            num_minority = int(options.n * (1 - share) + 1e-9)
            counts = {majority: options.n - num_minority, minority: num_minority}
            # A part of its own for each memory and each --seed, as far as the dataset has them.
            seed = 2 * len(options.majorities) * options.seed + len(memories)
            indices = registry.training_set(dataset, counts, part=0, parts=1, seed=seed)
            memories.append(Memory(share, majority, indices))
    return memories


class MemoryImages(NamedTuple):
    """The memories' images, which are decoded when they are asked for."""

    dataset: registry.Dataset
    cache: epath.Path
    memories: Sequence[Memory]

    def load(self, memory: Memory, progress: Progress) -> registry.Split:
        return registry.load_splits(self.dataset, self.cache, memory.indices, progress)["train"]


def run_retrieval(
    options: Options, images: MemoryImages, workdir: epath.Path, progress: Progress
) -> Json:
    """The minority's share of what is retrieved from each memory, and its minima."""
    rows: dict[str, list[Json]] = {"smoothed": [], "votes": [], "minima": []}
    drawn = {}
    total = len(images.memories)
    for i, memory in enumerate(images.memories):
        progress("retrieval", i, total, f"{memory.share:.0%} of class {memory.majority}")
        split = images.load(memory, progress)
        # The same noise at every rho, different noise for every memory.
        key = jax.random.fold_in(jax.random.key(options.seed), i)
        retrieved = _retrieve(options, memory, split, key)
        for name, new_rows in retrieved.rows.items():
            rows[name] += new_rows
        for rho, samples in retrieved.samples.items():
            drawn[f"{memory.share:g}-{memory.majority}-{rho:g}"] = samples
    progress("retrieval", total, total, "")
    results.write_npz(workdir / "retrieval.npz", **drawn)
    return {**rows, "law": fit_laws(options, rows["smoothed"])}


class _Retrieved(NamedTuple):
    """What is retrieved from one memory: rows by table, and a few samples by rho."""

    rows: dict[str, list[Json]]
    samples: dict[float, np.ndarray]


def _retrieve(
    options: Options, memory: Memory, split: registry.Split, key: jax.Array
) -> _Retrieved:
    pixels = split.images.reshape(len(split), -1)
    points = jnp.asarray(2.0 * pixels / 255.0 - 1.0, jnp.float32)
    labels = (split.labels != memory.majority).astype(np.int64)
    about = {"majority": memory.majority, "trained": float(labels.mean())}

    smoothed = []
    samples = {}
    for rho in options.rhos:
        x0, share = laboratory.retrieve_smoothed(
            points, labels, key, rho=rho, count=options.samples, sampling_steps=options.steps
        )
        smoothed.append(about | {"rho": rho} | dataclasses.asdict(share))
        samples[rho] = to_uint8(x0[:NUM_DRAWN].reshape(-1, *split.images.shape[1:]))

    votes = laboratory.vote_shares(
        points, labels, ks=options.ks, count=options.samples, seed=options.seed
    )
    minima = []
    # One role of the classes suffices: labels matter to the purity alone.
    if memory.majority == options.classes[0]:
        minima = laboratory.count_minima(
            points, labels, tau_factors=options.taus, seed=options.seed
        )
    rows = {
        "smoothed": smoothed,
        "votes": [about | dataclasses.asdict(vote) for vote in votes],
        "minima": [about | dataclasses.asdict(count) for count in minima],
    }
    return _Retrieved(rows, samples)


def fit_laws(options: Options, smoothed: Sequence[Mapping[str, int | float]]) -> list[Json]:
    """Theorem 2's law at each rho, for the first class over all memories."""
    first = options.classes[0]
    rows = []
    for rho in options.rhos:
        trained = []
        generated = []
        for row in smoothed:
            if row["rho"] != rho:
                continue
            # Rows hold the minority's shares.
            is_minority = row["majority"] != first
            trained.append(row["trained"] if is_minority else 1 - row["trained"])
            generated.append(row["share"] if is_minority else 1 - row["share"])
        fit = laboratory.fit_law(np.array(trained), np.array(generated), options.samples)
        rows.append({"rho": rho} | dataclasses.asdict(fit))
    return rows
