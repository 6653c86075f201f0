"""The workers that take turns, and the command that gives all figures of an accelerator."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import machine, turns, two_at_once
from benchmarks.accelerator.jobs import NO_TIME, Launcher, Queue
from benchmarks.accelerator.parts import compare_rates, describe_unet, peak_flops
from benchmarks.accelerator.plans import Figures, Plan, Side
from benchmarks.accelerator.record import Record
from benchmarks.accelerator.table import _rate_table, format_tables

IMAGES = 32  # of a call of benchmark_worker, which takes .01 s


def make_side(compiles: float = 0.0, fails: bool = False) -> Side:
    return Side("tests.benchmark_worker", {"compiles": compiles, "fails": fails})


def make_plan(name: str, **sides: Side) -> Plan:
    def entry(figures):
        return compare_rates(figures, "images_per_second")

    pair = ("first", "second") if "second" in sides else None
    return Plan((name,), sides, entry, turns=2, seconds=0.05, pair=pair)


def run_queue(plans, tmp_path, seconds: float, **options) -> dict:
    record = Record(tmp_path / "figures.json")
    environment = dict(os.environ)
    launcher = Launcher(sys.executable, sys.executable, environment, environment, tmp_path)
    Queue(plans, launcher, time.monotonic() + seconds, **options).run(record)
    return json.loads((tmp_path / "figures.json").read_text())


def test_a_rate_counts_whole_calls(monkeypatch, capsys):
    clock = 0.0

    def run_calls(count):
        nonlocal clock
        clock += 2.0 * count

    requests = "".join(json.dumps({"do": what}) + "\n" for what in ("warm", "round"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(requests))
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    turns.serve(run_calls, IMAGES, seconds=3.0)
    warm, measured = map(json.loads, capsys.readouterr().out.splitlines())
    assert warm == {"compiled": 2.0}
    assert measured == {"rate": IMAGES / 2.0}


@pytest.mark.skipif(not two_at_once.can_pin(), reason="needs two cores and Linux")
def test_two_at_once_are_pinned_and_counted_together(monkeypatch):
    monkeypatch.setattr(two_at_once, "MODULE", "tests.benchmark_worker")
    task = {"compiles": 0.0, "fails": False}
    text = two_at_once.measure_two_at_once(task, rounds=2)
    two, one, _ = (float(median) for median in re.findall(r"([\d.]+) \[", text))
    assert 0 < one <= IMAGES / 0.01
    assert 0 < two <= 2 * IMAGES / 0.01
    all_cores = os.sched_getaffinity(0)
    core = max(all_cores)
    command = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
    with turns.pinned([core]):
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.split() == [str(core)]
    assert os.sched_getaffinity(0) == all_cores


def test_figures_of_those_that_answer_are_kept(tmp_path):
    plan = make_plan("part", first=make_side(), second=make_side(fails=True))
    rows = run_queue([plan], tmp_path, seconds=60)["part"]
    low, high = rows["first"]["range"]
    assert 0 < low <= rows["first"]["images_per_second"] <= high <= IMAGES / 0.01
    assert rows["second"] == {"missing": "failed: RuntimeError: this worker was told to fail"}


@pytest.mark.slow
def test_what_does_not_compile_in_time_is_named(tmp_path):
    slow = make_side(compiles=600)
    plans = [make_plan("part", first=make_side(), second=slow), make_plan("never", first=slow)]
    start = time.monotonic()
    entries = run_queue(plans, tmp_path, seconds=8)
    assert time.monotonic() - start < 60
    assert "images_per_second" in entries["part"]["first"]
    assert entries["part"]["second"]["missing"].startswith("not compiled after")
    assert entries["skipped"] == {"never": NO_TIME}


def test_others_are_stopped_meanwhile_and_go_on(tmp_path):
    plans = [make_plan("first", first=make_side()), make_plan("second", first=make_side(1.0))]
    entries = run_queue(plans, tmp_path, seconds=60, at_once=1)
    assert "skipped" not in entries
    assert all("images_per_second" in entries[name]["first"] for name in ("first", "second"))


def test_shares_of_the_peak():
    sides = {"jaxdiff": Side("", {"dtype": "float32"})}
    warm = {"device": "NVIDIA H200", "flops": 2e9}
    figures = {"jaxdiff": Figures(ready=1.0, warm=warm, rounds=[{"rate": 1000.0}])}
    row = describe_unet(sides, figures, batch=256, pair=None)["jaxdiff"]
    assert row["tflops"] == 2.0
    assert row["ms_per_step"] == 256.0
    assert row["share_of_peak"] == pytest.approx(2e12 / (989e12 / 2))
    assert peak_flops("an unknown card", "bfloat16") is None


def test_the_processor_is_named_with_its_vector_instructions(monkeypatch):
    info = {
        "model name": "Xeon",
        "cpu family": "6",
        "model": "143",
        "flags": "fpu avx512f amx_bf16",
    }
    monkeypatch.setattr(machine, "read_cpuinfo", lambda: info)
    name, cores, vectors = machine.describe_processor().rsplit(", ", 2)
    assert (name, vectors) == ("Xeon (family 6, model 143)", "avx512f amx_bf16")
    assert cores.endswith(" cores")


def test_imported_libraries_are_named_with_their_blas():
    text = machine.describe_libraries()
    assert f"numpy {np.__version__}" in text
    if importlib.util.find_spec("threadpoolctl") is not None:
        assert "BLAS of" in text


@pytest.mark.slow
def test_the_command_and_its_table(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--tiny", "--parts=neighbors"]
    process = subprocess.run([*command, f"--out={out}"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    entries = json.loads(out.read_text())
    assert entries["about"]["tiny"]
    rows = entries["neighbors"]
    assert rows["jaxdiff"]["queries_per_second"] > 0
    if importlib.util.find_spec("torch") is None:
        assert "No module named 'torch'" in rows["torch TF32"]["missing"]
    else:
        assert rows["torch float32"]["equal_indices"] > 0.99
    assert format_tables(entries) in process.stdout


def test_a_part_that_does_not_exist(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--parts=speed"]
    process = subprocess.run([*command, f"--out={tmp_path}/x.json"], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("error: --parts must be of health, parity, train,")
    assert process.stderr.count("\n") == 1


def test_a_ratio_names_the_peers_that_gave_no_rate():
    rows = {
        "jaxdiff": {"images_per_second": 300.0},
        "torch eager": {"images_per_second": 100.0},
        "torch compile": {"missing": "not compiled after 300 s"},
    }
    last = list(_rate_table("training", rows))[-1]
    assert last == (
        "Our fastest over the peer's fastest, without torch compile, which gave no rate: 3.00"
    )
