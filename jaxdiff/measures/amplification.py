"""How far the minority's share among samples is from its share of the training data."""

import math

from scipy.special import logit

from jaxdiff.estimates import EXACT_TRIALS, Estimate, bounded_logit
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.registry import measure

# Logits of the trained share below this are those of equal classes, which have no exponent.
MIN_LOGIT = 1e-6


def amplification_scales(share: Estimate, trained: float) -> list[Estimate]:
    """Amplification on three scales; each end of the share's interval is mapped too.

    Parameters
    ----------
    share
        The minority's share of n samples, with its interval.
    trained
        The minority's share of the training data.

    Returns
    -------
    estimates
        ``absolute``: trained - generated, -1..1; positive where the majority grew.
        ``odds_ratio``: the majority's odds, generated over trained.
        ``exponent``: S = logit(generated) / logit(trained) of the majority, so that odds become
        (p / q)^S (Theorem 2 of the paper); 1 is no change. Left out where the classes are trained
        equally.
    """
    assert share.value is not None
    assert share.low is not None
    assert share.high is not None
    assert share.n is not None
    # A larger minority is a smaller amplification: the interval's ends change places.
    ends = (share.value, share.high, share.low)
    # The majority's logit is the negative of the minority's. The value is kept off 0 and 1; where
    # an end is there, a class may have vanished, and the odds have no such end.
    logits = [
        -bounded_logit(share.value, share.n),
        *(-float(logit(end)) if 0 < end < 1 else None for end in ends[1:]),
    ]
    trained_logit = -bounded_logit(trained, EXACT_TRIALS)
    scales: dict[str, list[float | None]] = {
        "absolute": [trained - end for end in ends],
        "odds_ratio": [None if x is None else math.exp(x - trained_logit) for x in logits],
    }
    if trained_logit > MIN_LOGIT:
        scales["exponent"] = [None if x is None else x / trained_logit for x in logits]
    form = share.labels.get("share_form", share.name)
    method = f"of the {form} share's, {share.method}"
    return [
        Estimate(value, low, high, share.n, method, name=name)
        for name, (value, low, high) in scales.items()
    ]


@measure(
    "amplification",
    title="Amplification on three scales",
    caption=(
        "The minority's generated share against its trained share, on three scales. The majority "
        "grew if a value is above 0 (absolute) or above 1 (odds_ratio, and exponent, which is the "
        "S of Theorem 2). Which model amplifies most can depend on the scale. The share is in the "
        "form that config.measures.share names."
    ),
    needs=("share", "roles"),
    topic="shares",
)
def amplification(artifacts: Artifacts) -> list[Estimate]:
    """The amplification of the share that the settings name; none where it is undefined."""
    named = next(e for e in artifacts.estimates("share") if e.name == "share")
    if named.value is None:
        return []
    return amplification_scales(named, require(artifacts.roles).trained)
