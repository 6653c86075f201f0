"""PRDC, FID and KID against their reference packages on the same features.

PRDC is checked against its authors' package, FID and KID against torch-fidelity's formulas, which
use SciPy.
"""

import numpy as np
import pytest

from jaxdiff.measures import distributions

pytestmark = pytest.mark.parity


@pytest.fixture(
    scope="module",
    params=[(600, 500, 32, 0.3), (90, 120, 256, 0.0)],
    ids=["more images than features", "fewer images than features"],
)
def features(request):
    num_real, num_fake, num_features, offset = request.param
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(num_features, num_features)) / np.sqrt(num_features)
    real = np.abs(rng.normal(size=(num_real, num_features))) @ mixing
    fake = np.abs(rng.normal(size=(num_fake, num_features))) @ mixing + offset
    return real.astype(np.float32), fake.astype(np.float32)


def test_prdc(features):
    prdc = pytest.importorskip("prdc")
    expected = prdc.compute_prdc(*features, nearest_k=5)
    values = {estimate.name: estimate.value for estimate in distributions.prdc(*features, 5)}
    print({name: values[name] - expected[name] for name in values})
    assert values == pytest.approx(expected, abs=2e-3)


def compute_statistics(x):
    """Mean and covariance, as torch-fidelity takes them."""
    x = x.astype(np.float64)
    return {"mu": x.mean(axis=0), "sigma": np.cov(x.T)}


def test_fid(features):
    reference = pytest.importorskip("torch_fidelity.metric_fid")
    real, fake = features
    metrics = reference.fid_statistics_to_metric(
        compute_statistics(real), compute_statistics(fake), verbose=False
    )
    expected = metrics["frechet_inception_distance"]
    value = distributions.fid(real, fake).value
    print(f"fid {value:.9g}, torch-fidelity {expected:.9g}")
    assert value == pytest.approx(expected, rel=1e-5)


def test_kid(features):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("torch_fidelity.metric_kid")
    # A subset of all images of a set is the set, so there is no random choice.
    size = min(len(x) for x in features)
    real, fake = (x[:size] for x in features)
    metrics = reference.kid_features_to_metric(
        torch.from_numpy(real.astype(np.float64)),
        torch.from_numpy(fake.astype(np.float64)),
        kid_subsets=2,
        kid_subset_size=size,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
        rng_seed=0,
        verbose=False,
    )
    expected = metrics["kernel_inception_distance_mean"]
    value = distributions.kid(real, fake).value
    print(f"kid {value:.9g}, torch-fidelity {expected:.9g}")
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
