"""The paper's theorems without a trained model: Theorem 1's laboratory, Theorem 2's laws, retrieval from real images."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from scipy import stats
from scipy.spatial import distance
from scipy.special import expit, logit

from jaxdiff import files, results
from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.images import to_uint8
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import wilson
from jaxdiff.landscape import retrieval, theorem1, theorem2
from jaxdiff.progress import Progress
from jaxdiff.study import stages

Row = dict[str, Any]
FIGURE_3 = (0.5, 0.6, 0.7, 0.8, 0.9)  # the paper's proportions of the majority
PICTURES = 8  # end points that are kept for the figure, of each temperature


@dataclasses.dataclass(frozen=True)
class Options:
    """grids: how many behind each simulated share, of side x side cells, one of which is drawn.

    Retrieval: classes and n images of `source` at each proportion of the majority, `samples` of the smoothed sampler at each
    rho, the hard vote of each k, minima at tau = each of `taus` times the median squared distance to the nearest image.
    """

    grids: int = 2000
    side: int = 32
    source: str = "digits"
    data_dir: str | None = None
    size: int = 16
    classes: tuple[int, int] = (6, 9)
    n: int = 200
    majorities: tuple[float, ...] = (0.9, 0.8, 0.6, 0.5)
    rhos: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    samples: int = 1000
    steps: int = 50
    ks: tuple[int, ...] = (1, 3, 5, 11, 25, 51, 101)
    taus: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    seed: int = 0


def run(
    options: Options, workdir: epath.Path, cache: epath.Path, progress: Progress
) -> dict[str, Any]:
    """Everything as `theorems.json`, and the pictures' arrays as grids.npz and retrieval.npz; what is done is kept.

    Raises ValueError where the dataset has too few images, or the workdir holds another run.
    """
    settings = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in dataclasses.asdict(options).items()
        if k != "data_dir"
    }
    dataset = sources.open_dataset(
        options.source,
        size=options.size,
        channels=sources.default_channels(options.source),
        data_dir=options.data_dir,
    )
    memories(options, dataset)  # too few images end here
    stages.claim(workdir / "config.json", settings)
    made: dict[str, Any] = {}
    parts: dict[str, tuple[Callable[[], dict[str, list[Row]]], tuple[str, ...]]] = {
        "laboratory": (laboratory, ()),
        "grids": (functools.partial(grids, options, workdir, progress), ("grids.npz",)),
        "retrieval": (
            functools.partial(recall, options, dataset, cache, workdir, progress),
            ("retrieval.npz",),
        ),
    }
    for name, (make, arrays) in parts.items():
        path = f"parts/{name}.json"
        write = functools.partial(_write, workdir / path, make)
        stages.stage(
            workdir,
            name,
            {"settings": settings, "data": dataset.source.identity},
            (path, *arrays),
            write,
        )
        made |= files.read_json(workdir / path)
    found = {"about": dataset.source.about, "settings": settings, **made}
    files.write_json(workdir / "theorems.json", found)
    return found


def _write(path: epath.Path, make: Callable[[], dict[str, list[Row]]]) -> None:
    files.write_json(path, make())


def laboratory() -> dict[str, list[Row]]:
    """Theorem 1's cases, a row a level: what the proof speaks of, computed; and the Hessian's norm in closed form."""
    rows = []
    for case in theorem1.laboratory():
        levels = theorem1.levels(case)
        whole = {
            name: getattr(theorem1, name)(levels) for name in ("premise", "stepwise", "conclusion")
        }
        rows += [
            {
                "case": case.name,
                "shows": case.shows,
                **whole,
                "level": a,
                **dataclasses.asdict(level),
                "exact": exact,
            }
            for a, (level, exact) in enumerate(zip(levels, case.exact, strict=True))
        ]
    return {"laboratory": rows}


def grids(options: Options, workdir: epath.Path, progress: Progress) -> dict[str, list[Row]]:
    """Figure 3: a grid of each proportion and its coarser ones to draw; many of them against the closed form; both laws."""
    rows: list[Row] = []
    arrays: dict[str, np.ndarray] = {}
    for i, p in enumerate(FIGURE_3):
        progress("grids", i, len(FIGURE_3), f"{p:.0%}")
        rng = np.random.default_rng([options.seed, i])
        one = theorem2.hierarchy(
            theorem2.grids([p, 1 - p], options.side, 1, rng, exact=True), 2, rng
        )
        arrays |= {f"{i}-{a}": grid[0].astype(np.int8) for a, grid in enumerate(one)}
        many = theorem2.hierarchy(
            theorem2.grids([p, 1 - p], options.side, options.grids, rng), 2, rng
        )
        means, errors = theorem2.shares_by_level(many)
        for a, (mean, error, exact) in enumerate(
            zip(means, errors, theorem2.iterates(p, len(many) - 1), strict=True)
        ):
            rows.append({"p": p, "level": a, "simulated": mean, "standard_error": error, "closed_form": float(exact),
                         "exponent": None if p == 0.5 or exact == 1 else float(theorem2.exponent(p, exact))})  # fmt: skip
    results.write_npz(workdir / "grids.npz", **arrays)
    progress("grids", len(FIGURE_3), len(FIGURE_3), "")
    laws = [
        {"p": float(p), "window": float(theorem2.majority_map(p)), "window_exponent": float(theorem2.exponent(p, theorem2.majority_map(p))),
         **{f"S = {s:g}": (o := theorem2.odds(float(p), 1 - float(p), s)) / (1 + o) for s in (1, 1.5, 2, 3)}}
        for p in np.arange(0.55, 0.96, 0.05)
    ]  # fmt: skip
    return {"grids": rows, "laws": laws}


def memories(options: Options, dataset: sources.Dataset) -> list[tuple[float, int, np.ndarray]]:
    """The share of the majority, its class and the images' indices of each memory: every proportion, either way round."""
    found: list[tuple[float, int, np.ndarray]] = []
    for share in options.majorities:
        for majority, minority in (options.classes, options.classes[::-1]):
            few = round(options.n * (1 - share))
            counts = {majority: options.n - few, minority: few}
            # Images of its own for each memory, as far as the dataset has them.
            seed = options.seed + len(found)
            found.append(
                (share, majority, sources.training_set(dataset, counts, part=0, parts=1, seed=seed))
            )
    return found


def recall(
    options: Options,
    dataset: sources.Dataset,
    cache: epath.Path,
    workdir: epath.Path,
    progress: Progress,
) -> dict[str, list[Row]]:
    """The minority's share of what is retrieved: by the smoothed sampler against rho, by the hard vote against k; minima."""
    schedule, pictures = Schedule.linear(), {}
    found: dict[str, list[Row]] = {"smoothed": [], "votes": [], "minima": []}
    chosen = memories(options, dataset)
    for i, (share, majority, indices) in enumerate(chosen):
        progress("retrieval", i, len(chosen), f"{share:.0%} of class {majority}")
        split = sources.load_splits(dataset, cache, indices, progress)["train"]
        points = jnp.asarray(2.0 * split.images.reshape(len(split), -1) / 255.0 - 1.0, jnp.float32)
        labels = (split.labels != majority).astype(np.int64)
        about = {"majority": majority, "trained": float(labels.mean())}
        key = jax.random.fold_in(
            jax.random.key(options.seed), i
        )  # the same noise at every rho, another for every memory
        for rho in options.rhos:
            x0, weights = retrieval.smoothed_sampler(
                points, schedule, rho, key, options.samples, options.steps
            )
            soft = retrieval.soft_labels(weights, labels, 2)[:, 1]
            found["smoothed"].append(about | {"rho": rho} | _shares(soft > 0.5, soft))
            pictures[f"{share:g}-{majority}-{rho:g}"] = to_uint8(
                x0[:PICTURES].reshape(-1, *split.images.shape[1:])
            )
        found["votes"] += [about | row for row in _votes(options, points, labels)]
        if majority == options.classes[0]:
            found["minima"] += [about | row for row in _minima(options, points, labels)]
    progress("retrieval", len(chosen), len(chosen), "")
    results.write_npz(workdir / "retrieval.npz", **pictures)
    return found | {"law": [_law(options, found["smoothed"], rho) for rho in options.rhos]}


def _law(options: Options, rows: Sequence[Row], rho: float) -> Row:
    """logit(generated) = b + S logit(trained) for the first class over all memories: Theorem 2 predicts b = 0, one S.

    Least squares weighted by n p (1 - p), a count of 0 as half a sample; t intervals over the memories, which are draws from
    one pool of images and hold for it alone. b is what the classes' own shapes do.
    """
    first = options.classes[0]
    shares = [(row["trained"], row["share"]) if row["majority"] != first else (1 - row["trained"], 1 - row["share"])
              for row in rows if row["rho"] == rho]  # fmt: skip
    least = 0.5 / options.samples
    x, y = (
        logit(np.clip(np.array(column), least, 1 - least)) for column in zip(*shares, strict=True)
    )
    share = expit(y)
    fit, covariance = np.polyfit(
        x, y, 1, w=np.sqrt(options.samples * share * (1 - share)), cov=True
    )
    half = stats.t.ppf(0.975, len(x) - 2) * np.sqrt(np.diag(covariance))
    found: Row = {"rho": rho, "n": len(x)}
    for name, value, away in zip(("S", "b"), fit, half, strict=True):
        found |= {
            name: float(value),
            f"{name}_low": float(value - away),
            f"{name}_high": float(value + away),
        }
    return found


def _shares(minority: np.ndarray, soft: np.ndarray) -> Row:
    """The share by argmax with its Wilson interval, the mean soft label, and how many are mixtures: of neither class to 90 %."""
    low, high = wilson(int(minority.sum()), len(minority))
    return {"share": float(minority.mean()), "low": low, "high": high, "soft": float(soft.mean()),
            "mixed": float(((soft > 0.1) & (soft < 0.9)).mean()), "n": len(minority)}  # fmt: skip


def _votes(options: Options, points: jax.Array, labels: np.ndarray) -> list[Row]:
    """Eq. 1 for noised training images at a few noise levels, a tie counted for the majority."""
    rng, schedule, rows = np.random.default_rng(options.seed), Schedule.linear(), []
    ks = tuple(k for k in options.ks if k <= len(points))
    for t in (200, 400, 600):
        s_square = float(schedule.alpha_bar[t])
        sources_of = rng.integers(0, len(points), options.samples)
        noise = (
            rng.normal(size=(options.samples, points.shape[1])) * ((1 - s_square) / s_square) ** 0.5
        )
        queries = points[sources_of] + jnp.asarray(noise, jnp.float32)
        for k, vote in retrieval.hard_votes(queries, points, labels, 2, ks).items():
            rows.append({"t": t, "k": k} | _shares(vote[:, 1] > 0.5, vote[:, 1]))
    return rows


def _minima(options: Options, points: jax.Array, labels: np.ndarray) -> list[Row]:
    """How many minima the free energy has as tau grows, and Definition 1 over those that merged."""
    squares = distance.cdist(points, points, "sqeuclidean") + np.diag(np.full(len(points), np.inf))
    unit, rng, rows = float(np.median(squares.min(axis=1))), np.random.default_rng(options.seed), []
    if not unit:
        raise ValueError(
            f"most of the {len(points)} images have an equal among them; remove the copies"
        )
    first = options.taus[0] * unit
    for times in options.taus:
        count = len(retrieval.minima(points, times * unit).centres)
        merged = (
            retrieval.merged(points, labels, first, times * unit, rng)
            if times > options.taus[0]
            else []
        )
        share = sum(row["points"] for row in merged) / len(points)
        mean = {key: _mean([row[key] for row in merged])
                for key in ("purity", "epsilon", "depth_before", "depth_after", "smallest_before", "smallest_after", "gap")}  # fmt: skip
        rows.append(
            {
                "tau": times * unit,
                "times": times,
                "minima": count,
                "merged": len(merged),
                "points_in_merged": share,
                **mean,
            }
        )
    return rows


def _mean(values: Sequence[float]) -> float | None:
    """Of those that are defined."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def summary(found: dict[str, Any]) -> Sequence[str]:
    """What was found, in sentences."""
    cases = {row["case"]: row for row in found["laboratory"]}
    refuted = [name for name, row in cases.items() if row["premise"] and not row["conclusion"]]
    worst = max(abs(row["hessian"] - row["exact"]) / row["exact"] for row in found["laboratory"])
    last = [row for row in found["grids"] if row["level"] == 1]
    sigma = max(
        abs(row["simulated"] - row["closed_form"]) / max(row["standard_error"], 1e-12)
        for row in last
    )
    exact = [row for row in found["smoothed"] if row["rho"] == 1.0]
    kept = sum(row["low"] <= row["trained"] <= row["high"] for row in exact)
    # A class that was not drawn at all has no odds: the largest rho at which all were says most.
    known = [
        law
        for law in found["law"]
        if all(0 < row["share"] < 1 for row in found["smoothed"] if row["rho"] == law["rho"])
    ]
    law, first = (known or found["law"])[-1], found["settings"]["classes"][0]
    return [
        f"Theorem 1: in {len(refuted)} of {len(cases)} cases every map is a contraction and the Hessian's norm does not fall "
        f"({'; '.join(refuted)}); computed and closed forms differ by at most {worst:.1e}.",
        f"Theorem 2: after one vote the simulated shares are within {sigma:.1f} standard errors of 3 p^2 - 2 p^3, whose "
        f"exponent lies between 1.5 and 2.",
        f"Retrieval from {found['about']}: at rho = 1 the trained share is within the 95 % interval in {kept} of "
        f"{len(exact)} memories. At rho = {law['rho']:g}, logit(generated) = b + S logit(trained) for class {first} has S = {law['S']:.2f} "
        f"[{law['S_low']:.2f}, {law['S_high']:.2f}] and b = {law['b']:.2f} [{law['b_low']:.2f}, {law['b_high']:.2f}]: smoothing amplifies "
        f"where S is above 1, and b, which Theorem 2 has as 0, is what it does to equal shares.",
    ]
