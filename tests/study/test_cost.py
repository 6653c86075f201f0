"""What a cell costs, and that a network too large for the memory is not built."""

import jax
import pytest

from jaxdiff.study import cost, grid
from tests.experiments.tiny_study import get_config


def build_cell():
    (cell,) = grid.expand(get_config())
    return cell


@pytest.mark.parametrize("on_one_device", [False, True])
def test_the_parameters_and_the_images_are_counted(on_one_device):
    estimate = cost.estimate_cost(build_cell(), on_one_device)
    assert estimate.images == 40 * 32
    assert estimate.parameters < 20_000
    assert estimate.seconds > cost.OVERHEAD_SECONDS


def test_every_checkpoint_that_is_kept_takes_space():
    config = get_config()
    config.train.checkpoint_every = 5
    config.train.keep_last = 1
    sizes = {}
    for config.train.keep_log_spaced in (False, True):
        (cell,) = grid.expand(config)
        sizes[config.train.keep_log_spaced] = cost.estimate_cost(cell)
    (plain, spaced) = sizes.values()
    # Of 40 steps those at 5, 10 and 20 stay as well, with weights, average and two moments each.
    assert spaced.disk_bytes - plain.disk_bytes == 3 * 4 * 4 * plain.parameters


@pytest.mark.parametrize("stats", [None, {}, {"bytes_limit": 1000}])
def test_a_network_too_large_for_the_memory_is_not_built(stats, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100)  # pages, and bytes a page
    monkeypatch.setattr(jax, "devices", lambda: [FakeDevice(stats)] * 8)
    monkeypatch.setattr(cost, "_time_forward", None)
    with pytest.raises(
        ValueError, match=r"config.models.1 must fit the 0 GB of memory here, .* averages"
    ):
        cost.estimate_cost(build_cell())


class FakeDevice:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats
