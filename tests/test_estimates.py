import numpy as np
import pytest

from jaxdiff.estimates import rogan_gladen, wilson


def test_wilson_is_the_printed_interval():
    """Newcombe (1998), Table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)
    with pytest.raises(ValueError, match="5 successes in 4 trials"):
        wilson(5, 4)


def test_a_perfect_classifier_changes_nothing_but_the_width():
    corrected = rogan_gladen(20, 100, 50, 50, 50, 50)
    assert corrected.value == pytest.approx(0.2)
    assert corrected.low < wilson(20, 100)[0] < corrected.value <= corrected.high
    assert rogan_gladen(20, 100, 20, 50, 20, 50) is None


@pytest.mark.parametrize(("share", "errors", "n"), [(0.2, 0.02, 256), (0.3, 0.1, 256), (0.5, 0.05, 1000)])
def test_the_corrected_interval_covers_the_truth(share, errors, n):
    """Samples and both error rates are drawn anew each time: 95 % intervals must cover in about 95 %."""
    rng, trials, test = np.random.default_rng(0), 2000, 200
    called = rng.binomial(n, share * (1 - errors) + (1 - share) * errors, trials)
    hits, rejections = rng.binomial(test, 1 - errors, (2, trials))
    intervals = [
        rogan_gladen(int(c), n, int(h), test, int(r), test) for c, h, r in zip(called, hits, rejections, strict=True)
    ]
    assert 0.93 <= np.mean([i.low <= share <= i.high for i in intervals]) <= 0.985
    assert abs(np.mean([i.value for i in intervals]) - share) < 0.005
