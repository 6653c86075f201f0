"""Every second of a run belongs to one part."""

import json
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from jaxdiff import timing
from jaxdiff.records import read_seconds, write_record
from jaxdiff.stage import Redo, run_stage
from jaxdiff.timing import Clock

TRACE = "/jax/core/compile/jaxpr_trace_duration"
BACKEND = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def passing(monkeypatch):
    """A clock that a test moves."""

    class Passing:
        now = 100.0

        def __call__(self) -> float:
            return self.now

    passing = Passing()
    monkeypatch.setattr(time, "monotonic", passing)
    return passing


def compile_for(event: str, start: float, end: float) -> None:
    """What JAX says when it has compiled."""
    jax.monitoring.record_event_time_span(event, start, end, fun_name="f")


def fail_in_clock(passing) -> None:
    with timing.clock("sampling"):
        passing.now += 3
        raise KeyError


def test_seconds_are_those_of_the_innermost_clock(passing):
    with timing.clock("other") as outer:
        passing.now += 1
        with timing.clock("training") as inner:
            passing.now += 10
            compile_for(BACKEND, 3.0, 7.0)
            assert inner.seconds() == {"compiling": 4.0, "training": 6.0}
        passing.now += 2
        with timing.clock("training"):
            passing.now += 5
        with pytest.raises(KeyError):
            fail_in_clock(passing)
        assert outer.seconds() == {
            "compiling": 4.0,
            "training": 11.0,
            "sampling": 3.0,
            "other": 3.0,
        }


def test_compilation_within_compilation_counts_once(passing):
    """A function that is traced traces those that it calls, and their events come first."""
    with timing.clock("measuring") as clock:
        passing.now += 20
        compile_for(TRACE, 1.0, 2.0)
        compile_for(BACKEND, 3.0, 5.0)
        compile_for(TRACE, 0.0, 6.0)  # of the function that called both
        compile_for(BACKEND, 6.0, 9.0)
        compile_for("/jax/checkpoint/write", 9.0, 15.0)
        assert clock.seconds() == {"compiling": 9.0, "measuring": 11.0}


def test_compilation_in_another_thread_takes_no_time_of_this_one(passing):
    with timing.clock("training") as clock:
        passing.now += 2
        thread = threading.Thread(target=compile_for, args=(BACKEND, 0.0, 1.0))
        thread.start()
        thread.join()
        assert clock.seconds() == {"training": 2.0}


def test_nothing_is_negative_where_the_time_of_day_was_set(passing):
    clock = Clock("training")
    clock.add_compilation(0.0, 3600.0)
    assert clock.seconds() == {"compiling": 3600.0, "training": 0.0}


def test_jax_says_that_it_compiles():
    """Both that it traces and that XLA compiles: the events' names are not part of its API."""
    with timing.clock("other") as clock:
        started = time.monotonic()
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((3, 5))).block_until_ready()
        elapsed = time.monotonic() - started
        seconds = clock.seconds()
    assert 0.1 * elapsed < seconds["compiling"] <= elapsed


def make_for(passing, seconds: float, error: BaseException | None = None):
    """The work of a stage that takes these seconds, and then ends or fails."""

    def make() -> None:
        passing.now += seconds
        if error is not None:
            raise error

    return make


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def test_a_stage_records_its_seconds_and_a_skipped_one_adds_none(folder, passing):
    make = make_for(passing, 7)
    with timing.clock("other") as clock:
        run_stage(folder, "train", {}, (), make, part="training")
        assert clock.seconds() == {"training": 7.0, "other": 0.0}
    with timing.clock("other") as clock:
        run_stage(folder, "train", {}, (), make, part="training")
        assert clock.seconds() == {"other": 0.0}
    assert read_seconds(folder, "train") == {"training": 7.0}


@pytest.mark.parametrize("error", [OSError(), KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_stage_adds_to_what_it_took_before(folder, passing, error):
    with pytest.raises(type(error)):
        run_stage(folder, "train", {}, (), make_for(passing, 7, error), part="training")
    with pytest.raises(type(error)):
        run_stage(folder, "train", {}, (), make_for(passing, 2, error), part="training")
    run_stage(folder, "train", {}, (), make_for(passing, 1), part="training")
    assert read_seconds(folder, "train") == {"training": 10.0}


def test_what_a_killed_process_kept_is_not_lost_nor_counted_twice(folder, passing):
    """A killed process writes no more: its record is that of its last checkpoint."""
    records = []

    def make() -> None:
        for _ in range(2):
            passing.now += 5
            timing.keep()
        records.append(read_seconds(folder, "train"))
        passing.now += 3

    run_stage(folder, "train", {}, (), make, part="training")
    assert records == [{"training": 10.0}]
    write_record(folder, "train", (), seconds=records[0])
    run_stage(folder, "train", {}, (), make_for(passing, 4), part="training")
    assert read_seconds(folder, "train") == {"training": 14.0}


def test_a_stage_that_is_made_again_takes_what_it_took_the_last_time(folder, passing):
    (folder / "out.txt").write_text("")
    run_stage(folder, "lpips", {}, ("out.txt",), make_for(passing, 7))
    run_stage(folder, "lpips", {}, ("out.txt",), make_for(passing, 2), redo=Redo(["lpips"]))
    assert read_seconds(folder, "lpips") == {"measuring": 2.0}


@pytest.mark.parametrize("seconds", [None, 3, {"training": "long"}, {"training": float("nan")}])
def test_damaged_seconds_count_as_none(folder, seconds):
    (folder / "stages").mkdir()
    (folder / "stages" / "train.json").write_text(
        json.dumps({"inputs": "", "outputs": {}, "seconds": seconds})
    )
    assert read_seconds(folder, "train") == {}


def test_what_is_killed_keeps_the_time_of_every_clock_that_runs(passing):
    """As of cells at once, each of which has a clock."""
    kept = {}
    with timing.clock("training", lambda seconds: kept.update(outer=dict(seconds))):
        passing.now += 2
        with timing.clock("training", lambda seconds: kept.update(inner=dict(seconds))):
            with timing.clock("preparing data"):
                passing.now += 4
            passing.now += 3
            compile_for(BACKEND, 107.0, 108.0)
            timing.keep()
    inner = {"preparing data": 4.0, "compiling": 1.0, "training": 2.0}
    assert kept == {"inner": inner, "outer": {**inner, "training": 4.0}}
