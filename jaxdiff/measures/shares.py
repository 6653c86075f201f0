"""The share of the minority class among samples, and the quality gate (SCIENCE: shares)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxdiff.estimates import rogan_gladen, wilson


def confusion_matrix(true: Int[np.ndarray, " n"], called: Int[np.ndarray, " n"], labels: int) -> Int[np.ndarray, "t c"]:
    """Counts [true label, called label]."""
    matrix = np.zeros((labels, labels), int)
    np.add.at(matrix, (true, called), 1)
    return matrix


def quality(called: Int[np.ndarray, " n"], classes: Sequence[int], reject: int) -> list[dict]:
    """The gate, then the shares of what is neither class.

    `gate` is the fraction of samples that the classifier calls one of the study's classes, 0..1, larger is better; it
    can fail, since the classifier also knows the other digits and a class of images that are no digit.
    """
    valid, none = np.isin(called, classes), called == reject
    counts = {"gate": valid.sum(), "other_digit": (~valid & ~none).sum(), "no_digit": none.sum()}
    return [_proportion(name, int(count), len(called)) for name, count in counts.items()]


def minority_share(
    called: Int[np.ndarray, " n"],
    majority: int,
    minority: int,
    confusion: Int[np.ndarray, "t c"],
    trained: float,
) -> list[dict]:
    """The minority's share of the samples that are either class: as classified, and corrected for the errors.

    `confusion` comes from test images of known class; only its entries between the two classes enter. `trained` is
    the proportion in the training data. Empty where no sample is either class.
    """
    minor, major = int((called == minority).sum()), int((called == majority).sum())
    if minor + major == 0:
        return []
    raw = _proportion("classified", minor, minor + major) | {"trained": trained}
    hits, misses = confusion[minority, minority], confusion[minority, majority]
    right, wrong = confusion[majority, majority], confusion[majority, minority]
    fixed = rogan_gladen(minor, minor + major, int(hits), int(hits + misses), int(right), int(right + wrong))
    if fixed is None:
        return [raw]
    interval = {"value": fixed.value, "low": fixed.low, "high": fixed.high}
    return [
        raw,
        {
            "name": "corrected",
            **interval,
            "n": minor + major,
            "interval": "Lang-Reiczigel 95 %",
            "trained": trained,
        },
    ]


def _proportion(name: str, successes: int, trials: int) -> dict:
    low, high = wilson(successes, trials)
    return {
        "name": name,
        "value": successes / trials,
        "low": low,
        "high": high,
        "n": trials,
        "interval": "Wilson 95 %",
    }
