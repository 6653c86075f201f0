import numpy as np
import pytest

from jaxdiff import estimates
from jaxdiff.measures.neighbors import nearest

pytestmark = pytest.mark.parity


def test_wilson_and_mcnemar_are_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for trials in (1, 7, 256, 10_000):
        for successes in {0, 1, trials // 3, trials}:
            wanted = proportion.proportion_confint(successes, trials, method="wilson")
            np.testing.assert_allclose(estimates.wilson(successes, trials), wanted, atol=1e-12)
    for b, c in ((0, 0), (3, 9), (40, 41), (0, 12)):
        assert estimates.mcnemar(b, c) == pytest.approx(
            tables.mcnemar([[5, b], [c, 7]], exact=True).pvalue, abs=1e-12
        )
    multiple = pytest.importorskip("statsmodels.stats.multitest")
    p = [0.01, 0.04, 0.03, 0.2]
    np.testing.assert_allclose(estimates.holm(p), multiple.multipletests(p, method="holm")[1])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbors_are_faiss(metric):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    queries, references = (rng.normal(size=(n, 96)).astype(np.float32) for n in (300, 5000))
    index = faiss.IndexFlatL2(96) if metric == "euclidean" else faiss.IndexFlatIP(96)
    scale = (
        (lambda x: x)
        if metric == "euclidean"
        else (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))
    )
    index.add(scale(references))
    wanted, order = index.search(scale(queries), 10)
    values, indices = nearest(queries, references, 10, metric)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(
        values, np.sqrt(wanted) if metric == "euclidean" else wanted, rtol=1e-4
    )
