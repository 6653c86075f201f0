"""The word for what differs between two cells."""

import dataclasses

import pytest
from flax import nnx

from jaxdiff.denoiser import MODELS, ModelFamily, config_to_json
from jaxdiff.study.differences import describe_difference
from jaxdiff.unet import TABLE_A
from tests.study.small_cells import build_result

SHALLOW = TABLE_A["2"]
SIX = TABLE_A["6"]
SIX_SLIM = dataclasses.replace(SIX, block_out_channels=(8,) * 6, norm_num_groups=4)


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    in_channels: int = 1


class Linear(nnx.Module):
    """A network that is no U-Net; it is not called."""


def with_network(network, prediction="eps", **sections):
    config = {"unet": config_to_json(network), **sections}
    return build_result("2", 0, config=config, prediction=prediction)


def describe(a, b):
    return describe_difference(with_network(a), with_network(b))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(SHALLOW, TABLE_A["3"], "depth", id="a level more"),
        pytest.param(SHALLOW, TABLE_A["2-large"], "width", id="2 and 2-large"),
        pytest.param(SHALLOW, SIX, "depth and attention", id="attention moves inward"),
        pytest.param(
            SHALLOW, TABLE_A["4"], "depth, width and attention", id="level 2 has 32 channels"
        ),
        pytest.param(SIX, SIX_SLIM, "width and groups", id="6 and 6-slim"),
        pytest.param(SHALLOW, SIX_SLIM, "depth, width, groups and attention", id="2 and 6-slim"),
        pytest.param(SHALLOW, SHALLOW.widened(0.5), "width and groups", id="half the width"),
        pytest.param(
            SHALLOW, dataclasses.replace(SHALLOW, norm_num_groups=16), "groups", id="groups"
        ),
        pytest.param(
            SHALLOW, dataclasses.replace(SHALLOW, attention=()), "attention", id="no attention"
        ),
        pytest.param(
            SHALLOW,
            dataclasses.replace(SHALLOW, up_attention=(2,)),
            "nothing but the name",
            id="what is the default already",
        ),
        pytest.param(
            SHALLOW,
            dataclasses.replace(SHALLOW, layers_per_block=1, dropout=0.1),
            "layers per block and dropout",
            id="fields without a word",
        ),
        pytest.param(
            SHALLOW,
            dataclasses.replace(SHALLOW, sample_size=32),
            "nothing but the name",
            id="the size that it was made for",
        ),
    ],
)
def test_u_nets(a, b, expected):
    assert describe(a, b) == expected
    assert describe(b, a) == expected


def test_another_family_is_another_network(monkeypatch):
    monkeypatch.setitem(MODELS, "linear", ModelFamily("linear", LinearConfig, Linear))
    assert describe(SHALLOW, LinearConfig()) == "network"
    assert describe(LinearConfig(), LinearConfig(3)) == "network"


def test_other_settings():
    eps = with_network(SHALLOW, "eps", diffusion={"prediction": "eps"}, train={"steps": 10})
    v = with_network(SIX, "v", diffusion={"prediction": "v"}, train={"steps": 10})
    assert describe_difference(eps, v) == "depth, attention and prediction"
    longer = with_network(SHALLOW, "eps", diffusion={"prediction": "eps"}, train={"steps": 20})
    assert describe_difference(eps, longer) == "training"
