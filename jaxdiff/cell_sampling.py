"""Samples of several models with one network at once, one device per model."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff import cell_axis, models, parallel
from jaxdiff.denoiser import get_params
from jaxdiff.noise_bank import bank_data
from jaxdiff.precision import sampling
from jaxdiff.progress import Progress, no_progress
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import check_network, count_classes
from jaxdiff.sampling_programs import (
    compile_begin,
    compile_result,
    compile_step,
    steps_per_call,
    walk,
)


class CellSampler:
    """Samples from models at once; each draws what a `Sampler` on one device draws from it.

    Parameters
    ----------
    sampled
        The models, of one network and schedule and at most one a device.
    spec
        Sampler, number of steps and options.
    batch
        Samples of a model that are computed at once.
    progress
        Is told the number of samples of a model.
    dtype
        Type of the network's activations and products: float32 or bfloat16.
    """

    def __init__(
        self,
        sampled: Sequence[models.Model],
        spec: SamplerSpec,
        *,
        batch: int = 64,
        progress: Progress = no_progress,
        dtype: str = "float32",
    ):
        model = sampled[0]
        check_network(model.unet)
        self._batch = batch
        self._progress = progress
        self._num_classes = count_classes(model.unet)
        networks = [one.unet for one in cell_axis.fill_devices(sampled)]
        self._mesh = cell_axis.cell_mesh(len(networks))
        self._params = cell_axis.stack([get_params(unet) for unet in networks], self._mesh)
        method = spec.build(model.prediction)
        self._chain = method.chain(model.schedule, spec.steps)
        with sampling():
            self._step = compile_step(model.unet, model.schedule, method, self._mesh, dtype)
            self._result = compile_result(method, self._mesh)
            self._begin = compile_begin(method, model.shape, cell_axis.sharding(self._mesh))

    def sample(
        self, indices: Int[np.ndarray, " n"], seeds: Sequence[int]
    ) -> list[Float[np.ndarray, "n h w c"]]:
        """Each model's samples from these entries of its seed's noise bank."""
        banks = [bank_data(seed) for seed in cell_axis.fill_devices(seeds)]
        with sampling():
            bank = cell_axis.stack(banks, self._mesh)
            batches = [
                self._sample_batch(bank, indices, first)
                for first in range(0, len(indices), self._batch)
            ]
        # The last batch's repeats are cut off here, and the cells of spare devices below.
        images = np.concatenate(batches, axis=1)[:, : len(indices)]
        return list(images[: len(seeds)])

    def _sample_batch(
        self, bank: Array, indices: Int[np.ndarray, " n"], first: int
    ) -> Float[np.ndarray, "cell batch h w c"]:
        end = min(first + self._batch, len(indices))
        # As a Sampler does, the last batch repeats its own rows.
        rows = np.resize(indices[first:end], self._batch).astype(np.int32)
        labels = self._repeat(rows % self._num_classes) if self._num_classes else None
        carry, keys = self._begin(bank, self._repeat(rows))
        calls = walk(self._step, self._chain, steps_per_call(), self._params, carry, keys, labels)
        for steps, state in calls:
            carry = state
            done = first + (end - first) * steps // len(self._chain.t)
            self._progress("sample", done, len(indices), "")
        return parallel.to_host(self._result(carry))

    def _repeat(self, rows: Int[np.ndarray, " batch"]) -> Array:
        return cell_axis.stack([rows] * self._mesh.size, self._mesh)
