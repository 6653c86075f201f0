"""What shares a compiled program, and what must not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.denoiser import abstract_network, as_function, build_network, get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.models import Model
from jaxdiff.parallel import data_mesh
from jaxdiff.programs import share_programs
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.sampling_programs import compile_prediction
from tests.conftest import MINIMAL_CONFIG


class Scaled(nnx.Module):
    """A network that multiplies by an attribute of any type."""

    num_classes = None

    def __init__(self, factor, input_shape=(4, 4, 1)):
        self.weight = nnx.Param(jnp.ones(()))
        self.factor = factor
        self.input_shape = input_shape

    def __call__(self, xt, t, labels=None, keys=None):
        return self.weight.get_value() * xt * read_factor(self.factor)


@dataclasses.dataclass
class Mutable:
    value: float


def read_factor(factor):
    if isinstance(factor, list | tuple):
        return factor[0]
    return factor.value if isinstance(factor, Mutable) else factor


def test_networks_of_one_config_are_one_function():
    first = as_function(build_network(MINIMAL_CONFIG, nnx.Rngs(0)))
    second = as_function(build_network(MINIMAL_CONFIG, nnx.Rngs(1)))
    assert first == second == as_function(abstract_network(MINIMAL_CONFIG))
    assert hash(first) == hash(second)
    other = dataclasses.replace(MINIMAL_CONFIG, act_fn="relu")
    assert first != as_function(abstract_network(other))


def test_an_attribute_that_is_set_later_makes_another_function():
    network = abstract_network(MINIMAL_CONFIG)
    before = as_function(network)
    network.remat = True
    assert as_function(network) != before


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1.0), (1, True), (0.0, -0.0), ((1, 2), (1.0, 2.0)), (2.0, 3.0)]
)
def test_attributes_of_another_type_or_value_make_another_function(a, b):
    assert as_function(Scaled(a)) == as_function(Scaled(a))
    assert as_function(Scaled(a)) != as_function(Scaled(b))


@pytest.mark.parametrize("factor", [[2.0], Mutable(2.0)])
def test_what_can_change_in_place_shares_nothing(factor):
    network = Scaled(factor)
    images = np.ones((1, 4, 4, 1), np.float32)
    outputs = []
    for value in (2.0, 3.0):
        if isinstance(factor, list):
            factor[0] = value
        else:
            factor.value = value
        sampler = Sampler(
            Model(network, Schedule.linear(10), "eps"), SamplerSpec("ddim", 2), batch=1
        )
        outputs.append(sampler.predict(images, np.array([5]))[1].mean())
    np.testing.assert_allclose(outputs, [2.0, 3.0], rtol=1e-6)


def test_a_shape_that_is_a_list_is_taken():
    network = Scaled(0.5, input_shape=[4, 4, 1])
    sampler = Sampler(Model(network, Schedule.linear(10), "eps"), SamplerSpec("ddim", 2), batch=2)
    assert sampler.sample(np.arange(3), 0).shape == (3, 4, 4, 1)


def test_models_that_differ_in_their_weights_share_a_program():
    mesh = data_mesh(1)

    def program(seed, schedule):
        network = build_network(MINIMAL_CONFIG, nnx.Rngs(seed))
        return compile_prediction(Model(network, schedule, "eps"), mesh)

    assert program(0, Schedule.linear(10)) is program(1, Schedule.linear(10))
    as_jax = Schedule(jnp.asarray(Schedule.linear(10).alpha_bar), "linear")
    assert program(0, Schedule.linear(10)) is program(0, as_jax)
    assert program(0, Schedule.linear(10)) is not program(0, Schedule.cosine(10))


def test_arguments_without_a_hash_are_built_each_time():
    calls = []

    @share_programs
    def build(argument):
        calls.append(argument)
        return len(calls)

    assert [build(1), build(1), build([1]), build([1])] == [1, 1, 2, 3]


def test_parameters_are_found_by_name():
    network = build_network(MINIMAL_CONFIG, nnx.Rngs(0))
    apply = as_function(network)
    xt = jnp.ones((1, 8, 8, 1))
    t = jnp.zeros(1, jnp.int32)
    np.testing.assert_array_equal(apply(get_params(network), xt, t), network(xt, t))
