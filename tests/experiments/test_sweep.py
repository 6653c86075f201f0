"""experiments.sweep and what follows it: the tiny study, resumed, reported, converted."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff import timing
from jaxdiff.study.lock import lock
from tests.experiments.commands import (
    CELL,
    MID_BLOCK,
    SHORT,
    SMALL,
    fail_command,
    run_command,
    run_module,
)

pytestmark = pytest.mark.slow

SECTIONS = {
    "quality",
    "share",
    "loss_by_class",
    "amplification",
    "lpips",
    "neighbors",
    "memorization",
    "fidelity",
    "checkpoints",
    "effective_k",
    "predicted_share",
    "curvature",
}


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The tiny study's folder, and what the command printed."""
    workdir = tmp_path_factory.mktemp("tiny_run")
    return workdir, run_command("sweep", *MID_BLOCK, "--workdir", workdir)


def read_json(path):
    return json.loads(path.read_text())


def read_steps(cell):
    """The steps of metrics.jsonl."""
    return [json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()]


def modified(path) -> int:
    return path.stat().st_mtime_ns


def test_a_run_leaves_the_layout_and_prints_its_results(tiny_run):
    workdir, out = tiny_run
    cell = workdir / "cells" / CELL
    for name in (
        "config.json",
        "metrics.jsonl",
        "samples.npz",
        "common.npz",
        "classes.npz",
        "neighbors.npz",
        "losses.npz",
        "probe.json",
        "result.json",
        "run.json",
    ):
        assert (cell / name).exists(), name
    for name in (
        "study.json",
        "report.html",
        "figures/samples.svg",
        "tables/table3.csv",
        "shared/confusion.json",
        "shared/comparisons.json",
    ):
        assert (workdir / name).exists(), name
    assert f"{CELL}: gate" in out
    samples = np.load(cell / "samples.npz")
    assert samples["arr_0"].shape == (20, 16, 16, 1)
    assert samples["arr_0"].dtype == np.uint8
    assert read_steps(cell) == [10, 20, 30, 40]
    info = read_json(cell / "result.json")["cell"]
    assert info["images_seen"] == 40 * 32
    assert info["learning_rate"] == 2e-3
    # Each weight of a convolution meets most of the 256 pixels in a product and a sum.
    assert 300 < info["flops"] / info["parameters"] < 900


def test_each_step_is_printed_once_when_it_is_done(tiny_run):
    _, out = tiny_run
    lines = out.splitlines()
    finished = [line for line in lines if "sample: 20/20" in line]
    assert len(finished) == 1
    assert len(set(lines)) == len(lines)


def test_the_seconds_of_a_run_and_of_its_cell_add_up(tiny_run):
    workdir, out = tiny_run
    _, _, table = out.partition("time spent")
    rows = [line.rsplit(maxsplit=1) for line in table.splitlines()[1:]]
    spent = {part.strip(): float(seconds) for part, seconds in rows}
    total = spent.pop("total")
    assert tuple(spent) == timing.PARTS
    assert sum(spent.values()) == pytest.approx(total, abs=0.1 * len(spent))
    run = read_json(workdir / "cells" / CELL / "run.json")
    by_part = run["seconds_by_part"]
    assert by_part.keys() == {"compiling", "training", "sampling", "measuring"}
    assert sum(by_part.values()) == pytest.approx(run["seconds"])
    assert all(0 < by_part[part] <= spent[part] + 0.2 for part in by_part)
    assert run["seconds"] > 0.5 * total


def test_the_result_holds_every_section(tiny_run):
    result = read_json(tiny_run[0] / "cells" / CELL / "result.json")
    assert result.keys() == SECTIONS | {"schema", "cell", "matmul_precision"}
    assert result["quality"][0]["name"] == "gate"
    assert 0 <= result["quality"][0]["value"] <= 1
    quality = {(entry["name"], entry.get("t")) for entry in result["quality"]}
    slopes = {("mean_eps_slope", t) for t in (100, 300, 999)}
    assert quality >= slopes | {("gate_random_weights", None)}
    assert {entry["name"] for entry in result["lpips"]} >= {"all_pairs", "training_data"}
    assert {(entry["images"], entry["k"]) for entry in result["neighbors"]} == {
        (images, k) for images in ("samples", "held_out") for k in (1, 2, 5, 10)
    }
    assert all("values" not in entry for section in SECTIONS for entry in result[section])


def test_done_stages_are_skipped_and_lost_ones_made_again(tiny_run):
    workdir, _ = tiny_run
    cell = workdir / "cells" / CELL
    before = {name: (cell / name).read_bytes() for name in ("samples.npz", "result.json")}
    trained = modified(cell / "checkpoints" / "40.json")
    (cell / "samples.npz").unlink()
    out = run_command("sweep", *MID_BLOCK, "--workdir", workdir)
    assert "sample: 20/20" in out
    assert "train" not in out
    assert modified(cell / "checkpoints" / "40.json") == trained
    assert {name: (cell / name).read_bytes() for name in before} == before


def test_redo_makes_one_measure_again_and_nothing_else(tiny_run):
    workdir, _ = tiny_run
    cell = workdir / "cells" / CELL
    records = {path.stem: modified(path) for path in (cell / "stages").iterdir()}
    result = (cell / "result.json").read_bytes()
    run_command("sweep", *MID_BLOCK, "--workdir", workdir, "--redo=neighbors")
    remade = {
        path.stem for path in (cell / "stages").iterdir() if modified(path) != records[path.stem]
    }
    assert remade == {"neighbors", "run"}, "run.json has the seconds of every stage"
    assert (cell / "result.json").read_bytes() == result


def test_redo_of_an_unknown_stage_is_refused(tiny_run):
    sentence = fail_command("sweep", *MID_BLOCK, "--workdir", tiny_run[0], "--redo=lpisp")
    assert "--redo lpisp matches no stage; the stages are" in sentence


def test_an_array_task_leaves_to_others_what_they_work_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    with lock(tmp_path / "cells" / CELL):
        out = run_command("sweep", *SMALL, "--workdir", tmp_path)
    assert f"skipped, locked by others: {CELL} (" in out
    assert not (tmp_path / "report.html").exists(), "it is drawn by the process that works"


def test_another_study_in_the_workdir_is_refused(tiny_run):
    sentence = fail_command(
        "sweep", *MID_BLOCK, "--config.train.batch=16", "--workdir", tiny_run[0]
    )
    assert "was made with other settings (config.train.batch is 32 there and 16 here)" in sentence


def test_sample_gives_the_same_images_for_any_number_of_them(tiny_run, tmp_path):
    model = tiny_run[0] / "cells" / CELL
    images = {}
    for name, options in {
        "few": ("--num=5",),
        "more": ("--num=11",),
        "other_batch": ("--num=5", "--batch=4"),
    }.items():
        path = tmp_path / f"{name}.npz"
        run_command("sample", "--model", model, "--seed=0", "--out", path, *options)
        images[name] = np.load(path)["arr_0"].astype(int)
    np.testing.assert_array_equal(images["few"], images["more"][:5])
    np.testing.assert_array_equal(images["few"], np.load(model / "samples.npz")["arr_0"][:5])
    difference = np.abs(images["few"] - images["other_batch"])
    assert difference.max() <= 1, "1e-3 of the range rounds to one gray level at most"
    assert (tmp_path / "few.png").exists()


@pytest.fixture(scope="module")
def diffusers_folder(tiny_run, tmp_path_factory):
    """The cell as a diffusers pipeline folder."""
    out = tmp_path_factory.mktemp("converted") / "pipeline"
    printed = run_command("convert", "--model", tiny_run[0] / "cells" / CELL, "--out", out)
    assert "a diffusers pipeline of" in printed
    return out


def test_a_converted_cell_is_sampled_as_a_diffusers_folder(diffusers_folder, tmp_path):
    """Its DDIM keeps eps where x0 is clipped, as diffusers does: other images than the cell's."""
    samples = tmp_path / "samples.npz"
    options = ("--num=3", "--steps=3", "--out", samples)
    assert "3 samples" in run_command("sample", "--model", diffusers_folder, *options)
    assert np.load(samples)["arr_0"].shape == (3, 16, 16, 1)
    options = ("--invert", samples, "--steps=4", "--out", tmp_path / "decoded.npz")
    out = run_command("sample", "--model", diffusers_folder, *options)
    assert "round trip: RMS difference a pixel" in out
    assert np.load(tmp_path / "decoded.npz")["x_T"].shape == (3, 16, 16, 1)
    sentence = fail_command("convert", "--model", diffusers_folder, "--out", diffusers_folder)
    assert "exists; choose another --out" in sentence


def test_a_workdir_in_a_bucket_is_as_one_on_disk(tiny_run, tmp_path):
    """gs:// is a folder here that behaves as a bucket; Orbax's own files are left out."""
    command = (
        "tests.experiments.bucket",
        tmp_path,
        "sweep",
        *MID_BLOCK,
        "--workdir=gs://mine/study",
        f"--config.data.cache={tmp_path}/cache",
    )
    assert f"{CELL} train: 40/40" in run_module(*command)
    disk = tiny_run[0] / "cells" / CELL
    study = tmp_path / "mine/study"
    bucket = study / "cells" / CELL
    for name in ("config.json", "result.json", "samples.npz", "neighbors.npz"):
        assert (bucket / name).read_bytes() == (disk / name).read_bytes(), name
    assert read_steps(bucket) == read_steps(disk)
    (bucket / "samples.npz").unlink()
    out = run_module(*command)
    assert "sample: 20/20" in out
    assert "train" not in out
    page = (study / "report.html").read_bytes()
    report = ("tests.experiments.bucket", tmp_path, "report", "--workdir=gs://mine/study")
    run_module(*report)
    assert (study / "report.html").read_bytes() == page


def test_seeds_encode_and_decode_each_others_images(tmp_path):
    """Three seeds of one majority with disjoint data: two decode what the third encodes."""
    options = (
        *SHORT,
        "--config.train.steps=40",
        "--config.seeds=(0,2,4)",
        "--config.data.parts=5",
        "--config.data.n=(20,)",
        "--config.measures.k=(1,2)",
        "--config.measures.inverted=12",
    )
    run_command("sweep", *SMALL, "--workdir", tmp_path, *options)
    rows = read_json(tmp_path / "shared/comparisons.json")["bias_variance"]
    (zero,) = (row for row in rows if row["name"] == "bias of the encoder itself")
    assert zero["encoder"] == "1-80_20-n20-s4"
    assert zero["n"] + zero["neither"] == 12
    assert 0.5 < zero["|x_T|^2/d"] < 2


def test_a_study_starts_from_a_diffusers_folder(diffusers_folder, tiny_run, tmp_path):
    init = f"--config.train.init={diffusers_folder}"
    workdir = tmp_path / "run"
    options = (init, "--config.train.steps=10", "--workdir", workdir)
    run_command("sweep", *MID_BLOCK, *SHORT, *options)
    losses = []
    for folder in (workdir, tiny_run[0]):
        lines = (folder / "cells" / CELL / "metrics.jsonl").read_text().splitlines()
        losses.append(json.loads(lines[0])["loss"])
    assert losses[0] < 0.9 * losses[1], "ten steps from trained weights against random ones"
    other = (init, "--config.diffusion.prediction=v", "--workdir", tmp_path / "other")
    sentence = fail_command("sweep", *MID_BLOCK, *other)
    assert "config.diffusion.prediction is v and config.train.init predicts eps" in sentence


def test_the_report_needs_no_jax(tiny_run, tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("raise ImportError('blocked by the test')")
    workdir = tiny_run[0]
    page = (workdir / "report.html").read_bytes()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "experiments.report",
        f"--workdir=file://{workdir}",
    ]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert (workdir / "report.html").read_bytes() == page


QUICKSTART = ("--config", "configs/quickstart.py")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (*QUICKSTART, "--config.train.stepz=3"),
            "config.train.stepz does not exist; did you mean config.train.steps?",
        ),
        (("--config", "configs/nothing.py"), "there is no config file configs/nothing.py"),
        ((*QUICKSTART, "--config.train.steps=many"), "config.train.steps cannot be 'many'"),
        ((*QUICKSTART, "--config.models.2=7"), "config.models is changed in the config file"),
        (("--config", "configs/paper_mnist.py"), "at most 260 can be had"),
        (
            (*QUICKSTART, "--workdir", "/proc/nowhere"),
            "/proc/nowhere cannot be written (No such file or directory); choose another --workdir",
        ),
        (
            (*QUICKSTART, "--workdir", r"runs/of [2024]\1", "--dry_run"),
            r"a folder of checkpoints must have none of [ ] * ? \, got [ ] \ in runs/of [2024]\1",
        ),
        ((), "--config is missing"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    """What a study's settings may be is in tests/study/test_grid.py."""
    if "--workdir" not in arguments:
        arguments = (*arguments, "--workdir", tmp_path / "run")
    assert sentence in fail_command("sweep", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_cells_mid_block_is_bypassed(tiny_run, tmp_path):
    cell = tiny_run[0] / "cells" / CELL
    options = (
        "--config.fractions=(0.0,1.0)",
        "--config.forms=('blend',)",
        "--config.num=12",
        "--config.queries=8",
    )
    out = run_command("bypass", "--model", cell, "--workdir", tmp_path, *options)
    assert "1 (80-20, n = 50, eps, 16 px)" in out
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"measures.svg", f"samples-{CELL}.svg"}
    plain = np.load(tmp_path / "samples" / f"{CELL}-0.npz")["arr_0"]
    np.testing.assert_array_equal(plain, np.load(cell / "samples.npz")["arr_0"][:12])
    bypassed = np.load(tmp_path / "samples" / f"{CELL}-blend-1.npz")["arr_0"]
    assert np.abs(bypassed.astype(int) - plain).max() > 0
    rows = read_json(tmp_path / "bypass.json")["models"][CELL]["rows"]
    assert {row["measure"] for row in rows} - {"share"} == {
        "quality",
        "lpips",
        "neighbors",
        "memorization",
        "fidelity",
        "effective_k",
        "moved",
    }
    sentence = fail_command("bypass", "--model", cell, "--model", cell, "--workdir", tmp_path)
    assert "are the same model of the same seed; give each cell once" in sentence
