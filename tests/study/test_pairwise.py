"""Which cells of a study are compared with each other, and what comes out."""

import numpy as np
import pytest

from jaxdiff.results import CellInfo, CellResult
from jaxdiff.study import inversion, pairwise
from jaxdiff.study.pairwise import Pair


def build_result(model, seed, common_labels=(), parts=5, majority=6):
    """A finished cell without files."""
    labels = np.array(common_labels, int)
    no_images = np.zeros((0, 8, 8, 1), np.uint8)
    name = f"{model}-s{seed}"
    info = CellInfo(
        name=name,
        model=model,
        depth=int(model),
        parameters=1,
        seed=seed,
        n=300,
        proportions=(0.8, 0.2),
        majority=majority,
        minority=15 - majority,
    )
    return CellResult(
        name=name,
        info=info,
        sections={},
        descriptions={},
        run={},
        samples=no_images,
        labels=labels[:0],
        nearest=no_images[:, None],
        common=np.zeros((len(labels), 8, 8, 1), np.uint8),
        common_labels=labels,
        config={"data": {"parts": parts}},
    )


def test_bias_and_variance_over_seeds_on_shared_noise():
    results = [
        build_result("2", 0, [6, 6, 9, 6]),
        build_result("2", 2, [6, 6, 9, 6]),
        build_result("3", 0, [6, 9, 9, 3]),
        build_result("3", 2, [9, 6, 9, 6]),
    ]
    rows = pairwise.bias_variance_on_noise(results)
    by_model = {(row["model"], row["name"]): row for row in rows}
    assert by_model["2", "variance"]["value"] == 0
    assert by_model["2", "share_bias"]["value"] == pytest.approx(0.25 - 0.2)
    assert by_model["3", "variance"]["value"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert by_model["3", "variance"]["neither"] == 1
    assert pairwise.bias_variance_on_noise(results[:1]) == []


def test_the_highest_seed_of_the_shallowest_model_encodes_and_the_others_decode():
    results = [build_result(model, seed) for model in ("2", "4") for seed in (0, 2, 4)]
    results += [build_result("2", seed, majority=9) for seed in (1, 3)]
    groups = {group.name: group for group in inversion.find_groups(results)}
    assert set(groups) == {"2-6", "4-6"}, "two seeds leave one to decode"
    for group in groups.values():
        assert group.encoder.name == "2-s4", "one encoder for all depths"
        assert [cell.info.seed for cell in group.decoders] == [0, 2]


@pytest.mark.parametrize(
    ("seeds", "parts", "expected"),
    [
        pytest.param((0, 2), 5, True, id="two parts of one shuffle"),
        pytest.param((0, 5), 5, False, id="the second turn shuffles again"),
        pytest.param((0, 2), 1, False, id="one part"),
    ],
)
def test_parts_that_share_no_image(seeds, parts, expected):
    a, b = (build_result("2", seed, parts=parts) for seed in seeds)
    assert pairwise.are_disjoint(Pair("seed", a, b)) is expected


def test_each_deeper_model_is_compared_with_the_shallowest_and_each_seed_with_the_next():
    results = [build_result(model, seed) for model in ("2", "3", "4") for seed in (0, 2)]
    pairs = [(pair.kind, pair.a.name, pair.b.name) for pair in pairwise.cell_pairs(results)]
    assert sorted(pairs) == [
        ("depth", "2-s0", "3-s0"),
        ("depth", "2-s0", "4-s0"),
        ("depth", "2-s2", "3-s2"),
        ("depth", "2-s2", "4-s2"),
        ("seed", "2-s0", "2-s2"),
        ("seed", "3-s0", "3-s2"),
        ("seed", "4-s0", "4-s2"),
    ]
