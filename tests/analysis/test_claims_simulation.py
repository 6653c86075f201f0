"""How often the verdicts come out, by simulating studies from labels to claims."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from jaxdiff.analysis.claims import judge, judge_contrast
from jaxdiff.analysis.plan import Plan
from jaxdiff.measures.artifacts import Predictions, Roles
from jaxdiff.measures.quality import quality_gate
from jaxdiff.measures.shares import ambiguity_bounds, select_share, share_forms
from tests.report.small_results import make_cell, make_info

pytestmark = pytest.mark.slow

MAJORITY, MINORITY, REJECT = 0, 1, 2
TRAINED = 0.2
SAMPLES = 1000
TEST_IMAGES = 1000
UNSURE = 0.09  # readable samples that the classifier is unsure of
ERRORS = 0.01  # readable samples that it takes for the other class
LIKELIER_IS_RIGHT = 0.85  # of unreadable samples


@dataclasses.dataclass(frozen=True)
class Condition:
    """A study: its gate, effect, seeds, spread of a cell's logit, and loss in the deep model."""

    gate: float
    effect: float
    seeds: int = 6
    spread: float = 0.2
    ratio: float = 1.0
    form: str = "gated"


def draw_predictions(rng, share, gate, ratio):
    """What a classifier says of samples of which the minority is lost `ratio` times as often."""
    is_minority = rng.random(SAMPLES) < share
    loss = (1 - gate) / (ratio * share + 1 - share)
    lost = rng.random(SAMPLES) < np.where(is_minority, ratio * loss, loss)
    wrong = rng.random(SAMPLES) < np.where(lost, 1 - LIKELIER_IS_RIGHT, ERRORS)
    likelier = np.where(is_minority ^ wrong, MINORITY, MAJORITY)
    confidence = np.where(rng.random(SAMPLES) < UNSURE, 0.6, 0.95)
    probabilities = np.empty((SAMPLES, 3))
    probabilities[:, REJECT] = np.where(lost, 0.8, 0.0)
    rest = 1 - probabilities[:, REJECT]
    rows = np.arange(SAMPLES)
    certainty = np.where(lost, 0.7, confidence)
    probabilities[rows, likelier] = rest * certainty
    probabilities[rows, 1 - likelier] = rest * (1 - certainty)
    labels = np.where(lost, REJECT, likelier)
    return Predictions(labels, probabilities, labels)


def draw_cell(rng, model, seed, condition):
    """A cell whose logit share differs from its model's by a normal deviation."""
    is_deep = model == "6"
    shift = condition.effect if is_deep else 0.0
    share = expit(logit(TRAINED) + shift + condition.spread * rng.normal())
    ratio = condition.ratio if is_deep else 1.0
    predictions = draw_predictions(rng, share, condition.gate, ratio)
    roles = Roles(MAJORITY, MINORITY, TRAINED)
    info = make_info(model, seed, TRAINED)
    named = select_share(share_forms(predictions, roles), condition.form)
    return make_cell(
        dataclasses.replace(info, majority=seed % 2),
        quality=quality_gate(predictions, roles.classes)[:1],
        share=[named, ambiguity_bounds(predictions, roles)],
    )


def simulate(condition, studies=400):
    """The fraction of studies with each verdict on the primary claim; "below": it falls."""
    rng = np.random.default_rng(0)
    plan = Plan(tuple(range(condition.seeds)))
    verdicts = []
    for _ in range(studies):
        pairs = [(model, seed) for model in ("2", "6") for seed in plan.seeds]
        cells = [draw_cell(rng, model, seed, condition) for model, seed in pairs]
        verdicts.append(rule_verdict(judge(cells, plan, TEST_IMAGES)[0]))
    names, counts = np.unique(verdicts, return_counts=True)
    fractions = dict(zip(names.tolist(), (counts / studies).tolist(), strict=True))
    print(condition, fractions)
    return fractions


def falls(fractions):
    """The fraction of studies that say that the share falls."""
    return fractions.get("supported", 0.0) + fractions.get("smaller than half the paper's", 0.0)


def assert_near(value, expected, studies=400):
    """Within three standard errors of this simulation and of one of 4,000 studies."""
    variance = max(expected * (1 - expected), 0.01)
    error = (variance / studies + variance / 4000) ** 0.5
    assert abs(value - expected) <= 3 * error


def rule_verdict(claim):
    """What the widened interval says, whatever the gate is: at .80 it is a matter of chance."""
    estimate = claim.estimate
    return judge_contrast(estimate.low, estimate.high, claim.widening)


# (seeds, gate) -> P(supported) at no effect, at half the paper's effect and at the paper's. Those
# of six seeds come from an independent simulation of 4,000 studies of the same rule; those of
# twelve from this one, of 2,000.
POWER = {
    (6, 0.97): (0.02, 0.29, 0.80),
    (6, 0.90): (0.01, 0.22, 0.73),
    (6, 0.80): (0.00, 0.11, 0.57),
}


@pytest.mark.parametrize(("seeds", "gate"), POWER)
def test_power(seeds, gate):
    for effect, expected in zip((0.0, -0.255, -0.51), POWER[seeds, gate], strict=True):
        fractions = simulate(Condition(gate, effect, seeds))
        assert_near(fractions.get("supported", 0.0), expected)
