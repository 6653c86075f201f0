"""metrics.jsonl: which lines it has, after which step it is cut, and what stops a training."""

import json

import pytest
from etils import epath

from jaxdiff.study.metrics_writer import MetricsWriter
from jaxdiff.trackers import Tracker


def open_writer(folder, start_step=0, **options):
    return MetricsWriter(
        epath.Path(folder),
        start_step,
        log_every=2,
        batch=8,
        step_flops=1e6,
        num_devices=4,
        **options,
    )


def record(step, loss=0.5):
    return {"step": step, "loss": loss, "gradient_norm": 1.0}


def read_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_every_few_steps_with_the_speed(tmp_path):
    writer = open_writer(tmp_path)
    writer.write([record(1)])
    assert read_lines(tmp_path) == []
    writer.write([record(step) for step in (2, 3, 4)])
    writer.close()
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["images_per_second"] > lines[0]["images_per_second_per_device"] > 0
    assert lines[0]["flops_per_second"] > 0
    assert writer.last_step == 4
    assert writer.note.startswith("loss 0.5000, ")


def test_a_resumed_run_drops_the_lines_after_its_step(tmp_path):
    writer = open_writer(tmp_path)
    writer.write([record(step) for step in range(1, 9)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "loss"')  # the process was killed while it wrote
    resumed = open_writer(tmp_path, start_step=4)
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4]
    resumed.write([record(5), record(6)])
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4, 6]


@pytest.mark.parametrize("line", ["{}", "3", "{x}", '{"step": null}', '{"step": "x"}', "\xff}"])
def test_a_damaged_line_is_named(tmp_path, line):
    text = f'{{"step": 2}}\n{line}\n{{"step": 4}}\n'
    (tmp_path / "metrics.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds a damaged line"):
        open_writer(tmp_path, start_step=4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == text.encode("latin-1")


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    writer = open_writer(tmp_path)
    with pytest.raises(ValueError, match=r"the loss is nan at step 3 .*; no checkpoint was saved"):
        writer.write([record(3, float("nan"))])
    writer.saved_step = 2
    with pytest.raises(ValueError, match="the checkpoint of step 2 is valid; choose a lower"):
        writer.write([record(3, float("inf"))])


def test_what_came_with_a_loss_that_is_not_finite_is_written(tmp_path):
    writer = open_writer(tmp_path)
    with pytest.raises(ValueError, match="the loss is nan at step 5"):
        writer.write([record(3), record(4), record(5, float("nan"))])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4


class RecordingTracker(Tracker):
    def __init__(self):
        self.steps = []
        self.is_open = True

    def log(self, step, values):
        assert "step" not in values
        self.steps.append(step)

    def close(self):
        self.is_open = False


def test_trackers_are_told_every_line_and_where_a_run_resumes(tmp_path):
    opened = []
    tracker = RecordingTracker()

    def open_trackers(step, last_step):
        opened.append((step, last_step))
        return [tracker]

    writer = open_writer(tmp_path, open_trackers=open_trackers)
    writer.write([record(step) for step in range(1, 9)])
    assert tracker.steps == [2, 4, 6, 8]
    resumed = open_writer(tmp_path, start_step=4, open_trackers=open_trackers)
    resumed.write([record(step) for step in range(5, 13)])
    resumed.close()
    assert opened == [(0, 0), (4, 8)]
    assert tracker.steps == [2, 4, 6, 8, 6, 8, 10, 12]
    assert not tracker.is_open
