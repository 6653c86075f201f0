"""Noise banks: the keys from which the samples of a seed are drawn, the same for every model."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, Key, UInt32

BANK_STREAM = 0x6E6F6973  # an arbitrary number: keys of the bank are not those of training
COMMON_SEED = 2**31 - 1  # names the noise bank that the models of all seeds share

KeyData = UInt32[ArrayLike, " word"]


def noise_bank(seed: int, indices: Int[ArrayLike, " n"]) -> Key[Array, " n"]:
    """Keys of the samples with these indices in a seed's noise bank, the same for every model."""
    return bank_keys(bank_data(seed), jnp.asarray(indices))


def bank_data(seed: int) -> UInt32[np.ndarray, " word"]:
    """The data of a bank's key, an argument of the programs that draw from the bank."""
    # On the host, from where several processes can place it.
    bank = jax.random.fold_in(jax.random.key(seed), BANK_STREAM)
    return np.asarray(jax.random.key_data(bank))


def bank_keys(data: KeyData, indices: Int[Array, " n"]) -> Key[Array, " n"]:
    """Keys of these entries of the bank whose key has this data; traceable."""
    bank = jax.random.wrap_key_data(jnp.asarray(data))
    return jax.vmap(jax.random.fold_in, (None, 0))(bank, indices)
