"""What changes when another model starts from the same noise (Figures 1, 5, A and B of the paper).

The paper looks at noises from which the shallow model drew the minority and finds that the deep one often drew the
majority. That selection by itself produces the effect (regression to the mean), so both selections are shown, and the
test is of the counts each way.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxdiff.estimates import mcnemar
from jaxdiff.measures.shares import proportion

ROLES = ("majority", "minority", "neither")


def roles(called: Int[np.ndarray, " n"], majority: int, minority: int) -> Int[np.ndarray, " n"]:
    """0 where the majority was called, 1 where the minority was, 2 elsewhere."""
    return np.where(called == majority, 0, np.where(called == minority, 1, 2))


def flips(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """From model a to model b on the same noise; a, b: `roles` of each noise.

    table: counts [role in a, role in b]. b_count: minority to majority, c_count: majority to minority; p_value: McNemar's exact test
    that both are equally likely. minority_in_a: of the noises whose sample in a is the minority, the fraction whose
    sample in b is the majority (the paper's selection); minority_in_b: the same with a and b exchanged. Where both are
    alike, selection made them.
    """
    table = np.zeros((3, 3), int)
    np.add.at(table, (a, b), 1)
    to_majority, to_minority = int(table[1, 0]), int(table[0, 1])
    selections = {
        "minority_in_a": (to_majority, int(table[1].sum())),
        "minority_in_b": (to_minority, int(table[:, 1].sum())),
    }
    found = [proportion(name, k, n) for name, (k, n) in selections.items() if n]
    return {"n": len(a), "table": table.tolist(), "b_count": to_majority, "c_count": to_minority,
            "p_value": mcnemar(to_majority, to_minority), "selections": found}  # fmt: skip


def similarity(
    a: np.ndarray,
    b: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    shifts: int = 2,
) -> list[dict[str, Any]]:
    """How alike two models' samples of the same noise are, beside samples of different noises (cyclic shifts).

    a, b: images [n, ...] of the same noises. Entries lpips (smaller is more alike) and correlation of the pixels (-1..1,
    larger is more alike), each `paired` and `shuffled`, as mean with a normal 95 % interval over noises.
    """
    n = len(a)
    moved = [np.roll(b, 1 + i * max(1, n // shifts), axis=0) for i in range(shifts if n > 2 else 1)]
    rows = []
    for name, measure in (("lpips", distance), ("correlation", correlation)):
        shuffled = np.mean([measure(a, other) for other in moved], axis=0)
        for pairing, values in (("paired", measure(a, b)), ("shuffled", shuffled)):
            mean, half = float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / n**0.5
            rows.append({"name": name, "pairing": pairing, "value": mean, "low": mean - half, "high": mean + half,
                         "n": n, "interval": "normal 95 % over noises"})  # fmt: skip
    return rows


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation over the pixels of each pair; 0 where an image is flat."""
    x, y = (v.reshape(len(v), -1).astype(float) for v in (a, b))
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
    length = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return (x * y).sum(axis=1) / np.where(length > 0, length, np.inf)
