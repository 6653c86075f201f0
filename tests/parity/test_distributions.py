"""PRDC against its authors' package, FID and KID against torch-fidelity's formulas and scipy, on the same features."""

import numpy as np
import pytest

from jaxdiff.measures import distributions

pytestmark = pytest.mark.parity


@pytest.fixture(
    scope="module",
    params=[(600, 500, 32, 0.3), (90, 120, 256, 0.0)],
    ids=["many", "fewer than numbers"],
)
def features(request):
    n, m, d, apart = request.param
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(d, d)) / np.sqrt(d)
    real, fake = (
        np.abs(rng.normal(size=(n, d))) @ mixed,
        np.abs(rng.normal(size=(m, d))) @ mixed + apart,
    )
    return real.astype(np.float32), fake.astype(np.float32)


def test_prdc(features):
    prdc = pytest.importorskip("prdc")
    theirs = prdc.compute_prdc(*features, nearest_k=5)
    ours = {row["name"]: row["value"] for row in distributions.prdc(*features, 5)}
    print({name: ours[name] - theirs[name] for name in ours})
    assert ours == pytest.approx(theirs, abs=2e-3)


def test_fid(features):
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    statistics = [
        {"mu": x.astype(np.float64).mean(axis=0), "sigma": np.cov(x.T.astype(np.float64))}
        for x in features
    ]
    theirs = metric.fid_statistics_to_metric(*statistics, verbose=False)[
        "frechet_inception_distance"
    ]
    ours = distributions.fid(*features)["value"]
    print(f"fid {ours:.9g}, torch-fidelity {theirs:.9g}")
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_kid(features):
    torch = pytest.importorskip("torch")
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    size = min(map(len, features))
    real, fake = (x[:size] for x in features)
    options = {"kid_subsets": 2, "kid_subset_size": size, "kid_kernel": "poly", "kid_kernel_poly_degree": 3,
               "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1.0, "rng_seed": 0, "verbose": False}  # fmt: skip
    found = metric.kid_features_to_metric(
        *(torch.from_numpy(x.astype(np.float64)) for x in (real, fake)), **options
    )
    theirs, ours = found["kernel_inception_distance_mean"], distributions.kid(real, fake)["value"]
    print(f"kid {ours:.9g}, torch-fidelity {theirs:.9g}")
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
