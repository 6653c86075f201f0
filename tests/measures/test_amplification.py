import dataclasses
import math

import pytest

from jaxdiff.estimates import Estimate
from jaxdiff.measures.amplification import amplification_scales

SHARE = Estimate(0.1, 0.05, 0.2, 1000, "Wilson 95 %", name="share", labels={"share_form": "gated"})


def scales(share, trained):
    return {estimate.name: estimate for estimate in amplification_scales(share, trained)}


def test_three_scales():
    estimates = scales(SHARE, 0.2)
    assert estimates["absolute"].value == pytest.approx(0.1)
    assert estimates["odds_ratio"].value == pytest.approx(9 / 4)
    assert estimates["exponent"].value == pytest.approx(math.log(9) / math.log(4))
    assert estimates["exponent"].low == pytest.approx(1.0), "the high end is the trained share"
    for estimate in estimates.values():
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.method == "of the gated share's, Wilson 95 %"


def test_the_exponent_of_the_papers_table_2():
    """Depth 6."""
    paper = dataclasses.replace(SHARE, value=0.2885)
    assert scales(paper, 0.4168)["exponent"].value == pytest.approx(2.69, abs=0.01)


def test_equal_classes_have_no_exponent():
    assert list(scales(SHARE, 0.5)) == ["absolute", "odds_ratio"]


def test_a_minority_that_may_have_vanished_has_no_upper_odds():
    estimates = scales(dataclasses.replace(SHARE, value=0.0, low=0.0), 0.2)
    assert estimates["absolute"].high == pytest.approx(0.2)
    assert estimates["odds_ratio"].high is None
    assert estimates["exponent"].high is None


def test_ends_beyond_half_a_sample_are_those_of_the_share():
    """One of 256 samples: Wilson's lower end is below half a sample."""
    share = Estimate.proportion(1, 256, "gated")
    odds, exponent = amplification_scales(share, 0.2)[1:]
    assert odds.high == pytest.approx((1 - share.low) / share.low / 4)
    assert exponent.high == pytest.approx(math.log((1 - share.low) / share.low) / math.log(4))


def test_a_majority_that_may_have_vanished_has_no_lower_odds():
    absolute, odds, exponent = amplification_scales(Estimate.proportion(256, 256, "gated"), 0.2)
    assert (odds.low, exponent.low) == (None, None)
    assert absolute.low == pytest.approx(0.2 - 1)
    assert odds.value < odds.high
