"""How training calls a network."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff import denoiser
from jaxdiff.cells.train_step import build_apply
from jaxdiff.denoiser import abstract_network, get_params


@dataclasses.dataclass(frozen=True)
class NoisyConfig:
    """A config that calls its rate of dropout by another name than a U-Net's."""

    in_channels: int = 1
    drop_path: float = 0.5


class Noisy(nnx.Module):
    """Shows whether it was given keys."""

    def __init__(self, config: NoisyConfig, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(jnp.zeros(1))

    def __call__(self, xt, t, labels=None, keys=None):
        return jnp.full_like(xt, keys is not None)


def test_a_network_of_ones_own_gets_keys_for_its_dropout(monkeypatch):
    monkeypatch.setattr(denoiser, "MODELS", dict(denoiser.MODELS))
    denoiser.register_model("noisy", NoisyConfig)(Noisy)
    apply = build_apply(NoisyConfig())
    params = {name: jnp.zeros(1) for name in get_params(abstract_network(NoisyConfig()))}
    xt = jnp.zeros((2, 4, 4, 1))
    output = apply(params, xt, jnp.zeros(2, int), jax.random.split(jax.random.key(0), 2))
    assert output.min() == 1
