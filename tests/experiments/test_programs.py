"""Cells of one network share their compiled programs."""

import jax
import pytest
from etils import epath

from jaxdiff.cells.data import DataPaths
from jaxdiff.progress import no_progress
from jaxdiff.study import grid, stages
from tests.experiments import tiny_study

COMPILATION = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """The seconds of each compilation, as JAX reports them."""
    seconds = []

    def listen(event, duration, **_):
        if event == COMPILATION:
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_the_second_seed_of_a_model_compiles_nothing(tmp_path, compilations):
    config = tiny_study.get_config()
    config.seeds = (0, 2)
    config.train.steps = 20
    first, second = grid.expand(config)
    counts = []
    times = []
    for cell in (first, second):
        compilations.clear()
        paths = DataPaths("", "")
        stages.run_cell(stages.open_cell(cell, epath.Path(tmp_path), paths, no_progress))
        counts.append(len(compilations))
        times.append(sum(compilations))
    print(f"compilations: {counts[0]} in {times[0]:.1f} s, then {counts[1]} in {times[1]:.2f} s")
    assert counts[0] > 100
    assert counts[1] == 0
