"""How often the verdicts come out, by simulating studies from labels to claims."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from jaxdiff.analysis.claims import judge
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.verdicts import judge_contrast
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.quality import quality_gate
from jaxdiff.measures.roles import Roles
from jaxdiff.measures.shares import ambiguity_bounds, select_share, share_forms
from tests.report.small_results import make_cell, make_info

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_type_checks")]

MAJORITY, MINORITY, REJECT = 0, 1, 2
TRAINED = 0.2
SHALLOW = 0.14  # the shallow model's share
STUDIES = 60
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
    share = expit(logit(SHALLOW) + shift + condition.spread * rng.normal())
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


def simulate(condition, studies=STUDIES):
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


def assert_near(value, expected, studies=STUDIES):
    """Within three standard errors of this simulation and of one of 4,000 studies."""
    variance = max(expected * (1 - expected), 0.01)
    error = (variance / studies + variance / 4000) ** 0.5
    assert abs(value - expected) <= 3 * error


def rule_verdict(claim):
    """What the widened interval says, whatever the gate is: at .80 it is a matter of chance."""
    estimate = claim.estimate
    return judge_contrast(estimate.low, estimate.high, claim.widening)


# P(supported) at no effect, at half the paper's effect and at the paper's. Those of six seeds, and
# of twelve at a gate of .95, are of an independent simulation of 4,000 studies of the same rule.
EFFECTS = (0.0, -0.255, -0.51)
POWER_OF_6_SEEDS = {
    0.97: (0.02, 0.29, 0.80),
    0.90: (0.01, 0.22, 0.73),
    0.80: (0.00, 0.11, 0.57),
}
# By the spread of a cell's logit: P(supported) at the last two effects, and P(no effect of half
# the paper's size) at none.
POWER_OF_12_SEEDS = {
    0.2 / 2**0.5: (0.83, 1.00, 0.86),
    0.28 / 2**0.5: (0.63, 1.00, 0.67),
}
# (gate, ratio of losses in the deep model) -> P(the share is said to fall) at no effect.
FALSE_ALARMS = {
    (0.95, 1.5): 0.03,
    (0.95, 2.5): 0.04,
    (0.90, 1.5): 0.03,
    (0.90, 2.5): 0.07,
    (0.80, 1.5): 0.03,
    (0.80, 2.5): 0.21,
}


@pytest.mark.parametrize("gate", POWER_OF_6_SEEDS)
@pytest.mark.parametrize("index", range(len(EFFECTS)))
def test_the_power_of_six_seeds(gate, index):
    fractions = simulate(Condition(gate, EFFECTS[index]))
    assert_near(fractions.get("supported", 0.0), POWER_OF_6_SEEDS[gate][index])


@pytest.mark.parametrize("spread", POWER_OF_12_SEEDS)
def test_the_power_of_twelve_seeds(spread):
    half, whole, weak = POWER_OF_12_SEEDS[spread]
    assert_near(simulate(Condition(0.95, -0.255, 12, spread)).get("supported", 0.0), half)
    assert_near(simulate(Condition(0.95, -0.51, 12, spread)).get("supported", 0.0), whole)
    at_none = simulate(Condition(0.95, 0.0, 12, spread))
    assert_near(at_none.get("no effect of half the paper's size", 0.0), weak)


@pytest.mark.parametrize("gate", POWER_OF_6_SEEDS)
def test_twelve_seeds_find_more_at_the_same_level(gate):
    assert falls(simulate(Condition(gate, 0.0, 12))) <= 0.025 + 3 * (0.025 / STUDIES) ** 0.5
    half = simulate(Condition(gate, -0.255, 12)).get("supported", 0.0)
    assert half > POWER_OF_6_SEEDS[gate][1] + 0.05
    assert simulate(Condition(gate, -0.51, 12)).get("supported", 0.0) > 0.9


@pytest.mark.parametrize(("gate", "ratio"), FALSE_ALARMS)
def test_false_alarms_where_the_deep_model_loses_the_minority(gate, ratio):
    alarms = falls(simulate(Condition(gate, 0.0, ratio=ratio)))
    assert_near(alarms, FALSE_ALARMS[gate, ratio])


def test_counting_every_sample_removes_most_false_alarms():
    """The class of five of six unreadable samples can be told; a gated share leaves them out."""
    forced = falls(simulate(Condition(0.8, 0.0, ratio=2.5, form="forced_choice")))
    assert forced < 0.05
