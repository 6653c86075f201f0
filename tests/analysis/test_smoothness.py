"""Verdicts from made-up norms, whose answer is known."""

import numpy as np
import pytest

from jaxdiff import results
from jaxdiff.analysis import probe_summary as probe_words
from jaxdiff.analysis import smoothness as probe
from jaxdiff.report import probe_figures, style


def row(weights, level, reading, name, values, **more):
    return {
        "weights": weights,
        "t": 100,
        "level": level,
        "reading": reading,
        "name": name,
        "values": values,
        **more,
    }


def made(name, depth, scale=1.0):
    """Levels 0 to 2: |J| falls below 1 at two of four points; the decoder's norm halves from level to level, the total variance
    grows by 3; pulled back, the norm falls at r = 2 and rises at r = 4. With random weights everything rises."""
    rows = []
    for weights, factor in (("trained", 0.5), ("random", 2.0)):
        for a in range(3):
            rows.append(row(weights, a, "scale", "total_variance", [3.0**a]))
            norms = (scale * factor**a * np.array([1.0, 2.0, 3.0, 4.0])).tolist()
            rows.append(row(weights, a, "decoder", "total", norms, errors=[0.01] * 4))
            rows.append(row(weights, a, "memory", "spectral_norm", norms, tau="scaled"))
            if not a:
                rows.append(row(weights, a, "hessian", "spectral_norm", [2.0] * 4))
                rows.append(row(weights, a, "denoiser", "spectral_norm", norms))
                continue
            rows.append(
                row(weights, a, "maps", "from_pixels", [0.5, 0.9, 1.0, 2.0], errors=[0.05] * 4)
            )
            rows.append(row(weights, a, "maps", "step", [0.5] * 4, errors=[0.0] * 4))
            for r, sign in ((2, -1), (4, 1)):
                rows.append(
                    row(weights, a, "pull_back", "total", [2.0 ** (sign * a)] * 3 + [None], rank=r)
                )
                rows.append(row(weights, a, "pull_back", "along", [1.0] * 4, rank=r))
    return probe.Probed(name, depth, 1000 * depth, 4, rows)


MODELS = [made("shallow", 1), made("deep", 2, scale=3.0)]


def short(**where):
    (found,) = [r for r in probe.in_short(MODELS) if where.items() <= r.items()]
    return found


LEVELS = {"comparison": "level with level", "model": "deep"}


def test_the_norm_falls_raw_and_rises_scaled():
    """Half as large at three times the variance; with random weights it rises on both scales."""
    raw = short(**LEVELS, reading="decoder", scale="raw", weights="trained")
    assert (raw["falls"], raw["does not fall"], raw["undecided"]) == (8, 0, 0)
    assert raw["log ratio"] == pytest.approx(np.log(0.5))
    scaled = short(**LEVELS, reading="decoder", scale="x total variance", weights="trained")
    assert (scaled["falls"], scaled["does not fall"]) == (0, 8)
    assert scaled["log ratio"] == pytest.approx(np.log(1.5))
    assert short(**LEVELS, reading="decoder", scale="raw", weights="random")["falls"] == 0


def test_only_points_whose_premise_holds_refute():
    """|J| + error < 1 at two of four points, and of those three whose directions are there two: pulled back along 4 directions alone,
    the norm rises everywhere, at 2 x 2 of them against the theorem."""
    rising = [
        probe.Probed(m.name, m.depth, m.parameters, 4, [r for r in m.rows if r.get("rank", 4) == 4])
        for m in MODELS
    ]
    (found,) = [
        r
        for r in probe.in_short(rising)
        if (LEVELS | {"reading": "pull-back", "scale": "raw", "weights": "trained"}).items()
        <= r.items()
    ]
    assert (found["falls"], found["does not fall"], found["undecided"]) == (0, 6, 2)
    assert [
        found[k]
        for k in ("premise holds", "of", "premise holds, decided", "premise holds, does not fall")
    ] == [
        4,
        8,
        4,
        4,
    ]
    rows = [
        r
        for r in probe.verdicts(rising)
        if LEVELS.items() <= r.items() and r["weights"] == "trained"
    ]
    assert {r["refuted"] for r in rows if (r["reading"], r["scale"]) == ("pull-back", "raw")} == {
        True
    }
    others = [r for r in rows if (r["reading"], r["scale"]) != ("pull-back", "raw")]
    assert others, "a decoder, a memory and a scaled norm are not what the theorem speaks of"
    assert {r["refuted"] for r in others} == {None}
    assert (
        "(8 of 16 points) it does not fall at 8 of 8 that are decided: the theorem is refuted"
        in " ".join(probe_words.summary(rising))
    )


def test_levels_that_do_not_follow_each_other():
    """From 0 to 2 no map was measured: nothing is said of the premise, and all the rest is."""
    far = [
        probe.Probed(m.name, m.depth, m.parameters, 4, [r for r in m.rows if r["level"] != 1])
        for m in MODELS
    ]
    (found,) = [
        r
        for r in probe.in_short(far)
        if (LEVELS | {"reading": "decoder", "scale": "raw", "weights": "trained"}).items()
        <= r.items()
    ]
    assert (found["falls"], found["of"]) == (4, None)
    assert found["log ratio"] == pytest.approx(np.log(0.25))


def test_memories_of_one_image_are_not_compared():
    """Norms below 1e-6 are of roundings: neither falls nor rises."""
    cold = [
        {**r, "values": [1e-30 * v for v in r["values"]]} if r["reading"] == "memory" else r
        for r in MODELS[0].rows
    ]
    found = [
        r for r in probe.in_short([probe.Probed("cold", 1, 1, 4, cold)]) if r["reading"] == "memory"
    ]
    assert found
    assert all((r["falls"], r["does not fall"]) == (0, 0) for r in found)


def test_ranks_must_agree():
    found = short(**LEVELS, reading="pull-back", scale="raw", weights="trained")
    assert (found["falls"], found["does not fall"], found["undecided"]) == (0, 0, 8)
    each = [r for r in probe.verdicts(MODELS) if LEVELS.items() <= r.items() and r["reading"] == "pull-back"
            and (r["weights"], r["scale"]) == ("trained", "raw")]  # fmt: skip
    assert {(r["form"], r["share"]) for r in each} == {("r = 2", 1.0), ("r = 4", 0.0)}
    assert all(r["n"] == 3 for r in each), "a direction that is not there is left out"


def test_errors_leave_points_undecided():
    near = [{**r, "errors": [10.0] * 4} if r["reading"] == "decoder" else r for r in MODELS[0].rows]
    found = probe.in_short([probe.Probed("near", 1, 1, 4, near)])
    (only,) = [
        r
        for r in found
        if (r["reading"], r["scale"], r["weights"]) == ("decoder", "raw", "trained")
    ]
    assert (only["falls"], only["undecided"], only["falls, %"]) == (0, 8, None)


def test_models_are_compared_at_their_own_bottlenecks_and_at_the_pixels():
    """deep is 3 times shallow: at level 1 of the one and level 2 of the other 3 / 2, and 3 at the pixels."""
    bottleneck = short(
        comparison="bottleneck with bottleneck", reading="decoder", scale="raw", weights="trained"
    )
    assert bottleneck["log ratio"] == pytest.approx(np.log(1.5))
    assert bottleneck["premise holds"] is None
    pixels = short(comparison="level 0 with level 0", form="|M|", scale="raw", weights="trained")
    assert pixels["log ratio"] == pytest.approx(np.log(3))
    assert pixels["does not fall"] == 4


def test_what_is_said():
    text = "\n".join(probe_words.summary(MODELS))
    print(text)
    assert (
        "x -> z is a contraction (|J| < 1) with trained weights at 50 % of points and levels"
        in text
    )
    assert (
        "decoder: the norm falls in 100 % (trained, raw), 0 % (random, raw), 0 % (trained, x total variance)"
        in text
    )
    assert (
        "pull-back: the norm falls in 0 % (trained, x total variance), 0 % (random, x total variance) of decided steps; the premise "
        in text
    )
    assert "holds at 8 of 16 points, at none of which it is decided" in text
    assert (
        "memory scaled tau: the norm falls in 100 % (trained, raw), 0 % (random, raw) of decided"
        in text
    )
    assert (
        "At the pixels, the same x_t, shallow -> deep: |M| x 3 (trained) and x 3 (random)" in text
    )
    assert "2 - smallest eigenvalue" not in text, "it was not measured"
    assert "the middle and the 90 % quantile: shallow 2, 2; deep 2, 2." in text
    assert "whose L is larger is not decidable" in text


@pytest.mark.parametrize(
    ("name", "panels"),
    [("against_level", 5), ("against_noise", 1), ("against_depth", 6), ("verdicts", 1)],
)
def test_the_figures_draw_what_was_measured(name, panels):
    figure = probe_figures.FIGURES[name](MODELS)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == panels
    assert all(ax.lines or ax.texts for ax in shown)
    assert "<svg" in style.to_svg(figure, name)


def test_what_was_not_measured_is_not_drawn():
    alone = [probe.Probed("alone", 1, 1, 4, [row("trained", 0, "scale", "total_variance", [1.0])])]
    assert [plot(alone) for plot in probe_figures.FIGURES.values()] == [None] * len(
        probe_figures.FIGURES
    )
    assert probe.verdicts(alone) == probe_words.summary(alone) == []


def test_a_row_of_points_as_result_json_has_it():
    found = results.of_points(
        row("trained", 0, "hessian", "smallest", [1.0, None, 3.0], errors=[0.0, None, 0.1])
    )
    assert (found["value"], found["n"]) == (2.0, 2)
    assert found["low"] == pytest.approx(1.2)
    assert found["interval"] == "10 to 90 % of points, error at most 1.0e-01"
