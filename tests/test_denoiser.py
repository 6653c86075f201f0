"""The denoiser protocols and the registry of model families."""

import dataclasses
import json

import jax
import pytest
from flax import nnx

from jaxdiff import denoiser
from jaxdiff.denoiser import (
    Denoiser,
    LeveledDenoiser,
    abstract_network,
    bind_params,
    build_network,
    check_denoiser,
    config_from_json,
    config_to_json,
    count_parameters,
    get_params,
    register_model,
)
from jaxdiff.unet import TABLE_A, UNet
from jaxdiff.unet_config import ConditionalConfig
from tests.conftest import TINY_CONFIG


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    in_channels: int = 1
    shape: tuple[int, int] = (4, 4)


class LinearNetwork(nnx.Module):
    """A denoiser without levels: one number for each channel."""

    def __init__(self, config: LinearConfig, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (config.in_channels,)))
        self.input_shape = (*config.shape, config.in_channels)
        self.num_classes = None

    def __call__(self, xt, t, labels=None, keys=None):
        return xt * self.weight[...]


@pytest.fixture
def linear_family(monkeypatch):
    monkeypatch.setattr(denoiser, "MODELS", dict(denoiser.MODELS))
    register_model("linear", LinearConfig)(LinearNetwork)
    return denoiser.MODELS["linear"]


def test_a_unet_is_a_leveled_denoiser(tiny):
    assert isinstance(tiny, Denoiser)
    assert isinstance(tiny, LeveledDenoiser)
    check_denoiser(tiny)


def test_a_network_without_levels_is_a_denoiser():
    network = LinearNetwork(LinearConfig(), rngs=nnx.Rngs(0))
    assert isinstance(network, Denoiser)
    assert not isinstance(network, LeveledDenoiser)
    check_denoiser(network)


def test_what_a_network_lacks_is_named():
    layer = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    assert not isinstance(layer, Denoiser)
    message = r"got Linear, which lacks the attribute input_shape .* and the attribute num_classes "
    with pytest.raises(ValueError, match=message + r".* and the call \(xt, t, labels=None, keys"):
        check_denoiser(layer)


def test_a_registered_network_is_built_from_its_config(linear_family):
    config = LinearConfig(in_channels=3)
    network = build_network(config, nnx.Rngs(0))
    assert isinstance(network, linear_family.network_class)
    assert count_parameters(config) == 3
    assert get_params(abstract_network(config))["weight"].shape == (3,)


def test_a_unet_is_built_from_its_config():
    assert isinstance(build_network(TINY_CONFIG, nnx.Rngs(0)), UNet)


@pytest.mark.parametrize("name", TABLE_A)
def test_the_json_of_a_unet_is_its_fields(name):
    config = TABLE_A[name]
    fields = json.loads(json.dumps(config_to_json(config)))
    assert fields == json.loads(json.dumps(dataclasses.asdict(config)))
    assert list(fields) == [field.name for field in dataclasses.fields(config)]
    assert config_from_json(fields) == config


def test_the_json_of_another_family_has_its_type(linear_family):
    config = LinearConfig(shape=(4, 8))
    fields = config_to_json(config)
    assert fields == {"type": "linear", "in_channels": 1, "shape": [4, 8]}
    assert config_from_json(json.loads(json.dumps(fields))) == config


def test_unknown_types_fields_and_configs_are_refused():
    with pytest.raises(ValueError, match=r"a model's type must be one of .*unet.*, got 'mlp'"):
        config_from_json({"type": "mlp"})
    with pytest.raises(ValueError, match=r"model family 'unet' must have fields .* got 'width'"):
        config_from_json({"block_out_channels": [8], "width": 2})
    # Its network needs a text, which no study has: it has a class of its own.
    with pytest.raises(ValueError, match="of a registered class, got ConditionalConfig"):
        abstract_network(ConditionalConfig((8,)))


def test_a_family_is_registered_once_and_has_channels(linear_family):
    register_model("linear", LinearConfig)(LinearNetwork)  # a module that is loaded again
    with pytest.raises(ValueError, match="model family 'linear' must be registered once"):
        register_model("linear", LinearConfig)(UNet)
    with pytest.raises(ValueError, match="must be a dataclass with a field in_channels, got int"):
        register_model("number", int)


def test_missing_parameters_are_refused(tiny):
    params = get_params(tiny)
    del params["conv_in.bias"]
    with pytest.raises(KeyError, match=r"conv_in\.bias"):
        bind_params(tiny, params)


def test_an_abstract_network_is_its_callers_own():
    """The network is traced once, and what one caller changes no other one sees."""
    first = abstract_network(TINY_CONFIG)
    first.remat = True
    second = abstract_network(TINY_CONFIG)
    assert not second.remat
    shapes = {name: param.shape for name, param in get_params(second).items()}
    built = get_params(build_network(TINY_CONFIG, nnx.Rngs(0)))
    assert shapes == {name: param.shape for name, param in built.items()}
