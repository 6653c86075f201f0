"""The share of the minority class among samples, read by classifiers that err, and the quality gate.

Every function returns entries as result.json holds them: {name, value, low, high, n, interval, ...}.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from jaxdiff.estimates import Corrected, Proportion, bounded_logit, rogan_gladen, wilson

SURE = 0.75  # a called class with less probability than this counts as ambiguous in the bounds
Entry = dict[str, object]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What two classifiers of different architecture see in n samples; the last label is the reject class.

    called, second: each classifier's most probable label; probability: the first one's, of every label.
    """

    called: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, "n label"]
    second: Int[np.ndarray, " n"]

    @property
    def reject(self) -> int:
        return self.probability.shape[1] - 1


def confusion_matrix(
    true: Int[np.ndarray, " n"], called: Int[np.ndarray, " n"], labels: int
) -> Int[np.ndarray, "t c"]:
    """Counts [true label, called label]."""
    matrix = np.zeros((labels, labels), int)
    np.add.at(matrix, (true, called), 1)
    return matrix


def quality(reading: Reading, classes: Sequence[int]) -> list[Entry]:
    """The gate first, then the shares of what is neither class, then how often the two classifiers disagree.

    `gate` is the fraction of samples that the classifier calls one of the study's classes, 0..1, larger is better; it
    can fail, since the classifier also knows the other classes and one of images that are of none.
    """
    valid, none = np.isin(reading.called, classes), reading.called == reading.reject
    agree = np.where(valid, reading.called, -1) == np.where(
        np.isin(reading.second, classes), reading.second, -1
    )
    counts = {
        "gate": valid,
        "other_class": ~valid & ~none,
        "no_class": none,
        "disagreement": ~agree,
    }
    return [proportion(name, int(found.sum()), len(found)) for name, found in counts.items()]


def minority_share(
    reading: Reading, majority: int, minority: int, confusion: Int[np.ndarray, "t c"],
    denoised: Int[np.ndarray, "t c"] | None, trained: float,
) -> list[Entry]:  # fmt: skip
    """The minority's share of the samples that are either class, by every reading of the same samples.

    classified: as called. corrected: for the errors on test images (`confusion`, true x called), between the two
    classes; corrected_many: over all classes. corrected_denoised: for the errors on held-out images that the cell
    itself has noised and denoised (`denoised`). second: as the other architecture calls them. bounds: every ambiguous
    image given to the majority, and to the minority. Empty where no sample is either class.
    """
    roles, called = (majority, minority), reading.called
    minor, major = int((called == minority).sum()), int((called == majority).sum())
    if minor + major == 0:
        return []
    entries = [proportion("classified", minor, minor + major)]
    for name, matrix in (("corrected", confusion), ("corrected_denoised", denoised)):
        fixed = (
            None
            if matrix is None
            else _two_classes(minor, minor + major, matrix, majority, minority)
        )
        if fixed is not None:
            entries.append(_corrected(name, fixed, minor + major, "Lang-Reiczigel 95 %"))
    many = corrected_share(called, confusion, majority, minority, reading.reject)
    entries.append(_corrected("corrected_many", many, minor + major, "Dirichlet bootstrap 95 %"))
    seen = [int((reading.second == c).sum()) for c in roles]
    if sum(seen):
        entries.append(proportion("second", seen[1], sum(seen)))
    entries.append(bounds(reading, majority, minority))
    return [entry | {"trained": trained} for entry in entries]


def bounds(reading: Reading, majority: int, minority: int) -> Entry:
    """The share with every ambiguous image given to either class: low from the one extreme, high from the other.

    Ambiguous: neither class, or a class called with less than 75 %. Wilson's ends at both extremes.
    """
    sure = reading.probability.max(axis=1) >= SURE
    minor, major = (int(((reading.called == c) & sure).sum()) for c in (minority, majority))
    n, unclear = len(sure), len(sure) - minor - major
    return {
        "name": "bounds", "value": (minor + unclear / 2) / n, "low": wilson(minor, n)[0],
        "high": wilson(minor + unclear, n)[1], "n": n, "interval": "Wilson 95 % at both extremes", "ambiguous": unclear,
    }  # fmt: skip


def _two_classes(
    successes: int, trials: int, matrix: np.ndarray, majority: int, minority: int
) -> Corrected | None:
    hits, misses = int(matrix[minority, minority]), int(matrix[minority, majority])
    right, wrong = int(matrix[majority, majority]), int(matrix[majority, minority])
    if not hits + misses or not right + wrong:
        return None
    fixed = rogan_gladen(
        Proportion(successes, trials),
        Proportion(hits, hits + misses),
        Proportion(right, right + wrong),
    )
    return None if fixed is None else Corrected(fixed.value, fixed.low, fixed.high)  # type: ignore[arg-type]


def true_shares(
    called: Float[np.ndarray, " c"], rates: Float[np.ndarray, "t c"]
) -> Float[np.ndarray, " t"]:
    """Shares of the true classes that explain the called ones best: least squares on shares >= 0 that sum to 1."""
    heavy = 1e4  # holds the sum; nnls holds the signs
    system = np.vstack([rates.T, np.full(len(rates), heavy)])
    shares = nnls(system, np.append(called, heavy))[0]
    return shares / shares.sum()


def corrected_share(
    called: Int[np.ndarray, " n"], confusion: Int[np.ndarray, "t c"], majority: int, minority: int, reject: int,
    draws: int = 1000,
) -> Corrected:  # fmt: skip
    """The minority's share of both classes after correcting for confusion among all classes.

    The interval redraws the samples' counts and every row of the confusion matrix from their Dirichlet posteriors
    (prior: one image, spread evenly), so that it carries the uncertainty of both; the generator's seed is fixed.
    """
    rows = confusion[:reject, :reject].astype(float)
    counts = np.bincount(called[called < reject], minlength=reject).astype(float)
    rng, prior = np.random.default_rng(0), 1.0 / reject

    def share(counts: np.ndarray, rows: np.ndarray) -> float:
        found = true_shares(counts / counts.sum(), rows / rows.sum(axis=1, keepdims=True))
        both = found[minority] + found[majority]
        return float(found[minority] / both) if both > 0 else 0.5

    value = share(counts, np.where(rows.sum(axis=1, keepdims=True) > 0, rows, np.eye(reject)))
    drawn_rows = rng.gamma(rows + prior, size=(draws, *rows.shape))
    drawn_counts = rng.gamma(counts + prior, size=(draws, reject))
    low, high = np.quantile(
        [share(c, r) for c, r in zip(drawn_counts, drawn_rows, strict=True)], (0.025, 0.975)
    )
    return Corrected(value, min(float(low), value), max(float(high), value))


def amplification(share: Entry, trained: float) -> list[Entry]:
    """How far a share of the minority is from the trained one, on three scales; each end of the interval is mapped too.

    absolute: trained - generated, in 0..1 (positive: the majority grew). odds_ratio: the majority's odds, generated
    over trained. exponent: S = logit(generated) / logit(trained) of the majority; 1 means the same proportions and it
    is left out where the classes are trained equally (Theorem 2 of the paper: odds (p/q)^S).
    """
    n = int(share["n"])  # type: ignore[call-overload]
    value, low, high = (float(share[key]) for key in ("value", "low", "high"))  # type: ignore[arg-type]
    majority = [
        -bounded_logit(x, n) for x in (value, high, low)
    ]  # a larger minority is a smaller amplification
    base = -bounded_logit(trained, 10**9)
    scales: dict[str, list[float | None]] = {
        "absolute": [trained - value, trained - high, trained - low],
        "odds_ratio": [math.exp(x - base) for x in majority],
    }
    if base > 1e-6:
        ratios = [x / base for x in majority]
        scales["exponent"] = [*ratios]
    if low <= 0:  # the odds have no upper end
        scales = {name: v if name == "absolute" else [*v[:2], None] for name, v in scales.items()}
    of = f"of the {share['name']} share's, {share['interval']}"
    return [
        {"name": name, "value": v, "low": a, "high": b, "n": n, "interval": of}
        for name, (v, a, b) in scales.items()
    ]


def _corrected(name: str, fixed: Corrected, n: int, interval: str) -> Entry:
    return {
        "name": name,
        "value": fixed.value,
        "low": fixed.low,
        "high": fixed.high,
        "n": n,
        "interval": interval,
    }


def proportion(name: str, successes: int, trials: int) -> Entry:
    """An entry for a count, with Wilson's interval."""
    low, high = wilson(successes, trials)
    return {
        "name": name,
        "value": successes / trials,
        "low": low,
        "high": high,
        "n": trials,
        "interval": "Wilson 95 %",
    }
