"""The commands as users call them, in processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff.study.lock import lock

SMALL = ("--config", "tests/experiments/tiny_study.py")
SHORT = ("--config.measures.lpips=none", "--config.measures.queries=0", "--config.measures.checkpoints=0",
         "--config.measures.probe=0")  # fmt: skip
CELL = "1-80_20-n50-s0"
FLAGS = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"


def command(module, *arguments, **options):
    return python(f"experiments.{module}", *arguments, **options)


def python(module, *arguments, **options):
    environment = os.environ | {
        "XLA_FLAGS": FLAGS,
        "GLIBC_TUNABLES": "",
    }  # nor does the process begin again
    run = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, finished(command("sweep", *SMALL, "--workdir", workdir))


def test_a_run_leaves_the_layout_and_says_what_it_found(whole):
    workdir, out = whole
    cell = workdir / "cells" / CELL
    for name in (
        "config.json",
        "metrics.jsonl",
        "samples.npz",
        "common.npz",
        "classes.npz",
        "neighbors.npz",
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
    ):
        assert (workdir / name).exists(), name
    assert f"{CELL}: gate" in out
    sections = json.loads((cell / "result.json").read_text()).keys()
    assert sections >= {
        "quality",
        "share",
        "lpips",
        "neighbors",
        "memorization",
        "fidelity",
        "checkpoints",
        "effective_k",
        "predicted_share",
        "curvature",
    }
    samples = np.load(cell / "samples.npz")
    assert samples["arr_0"].shape == (20, 16, 16, 1)
    assert samples["arr_0"].dtype == np.uint8
    result = json.loads((cell / "result.json").read_text())
    assert result["quality"][0]["name"] == "gate"
    assert 0 <= result["quality"][0]["value"] <= 1
    assert {e["name"] for e in result["lpips"]} >= {"all_pairs", "training_data"}
    assert {(e["images"], e["k"]) for e in result["neighbors"]} == {
        (i, k) for i in ("samples", "held_out") for k in (1, 2, 5, 10)
    }
    assert [
        json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()
    ] == [
        10,
        20,
        30,
        40,
    ]


def test_done_stages_are_skipped_and_lost_ones_made_again(whole):
    workdir, _ = whole
    cell = workdir / "cells" / CELL
    before = {name: (cell / name).read_bytes() for name in ("samples.npz", "result.json")}
    trained = (cell / "checkpoints" / "40.json").stat().st_mtime_ns
    (cell / "samples.npz").unlink()
    out = finished(command("sweep", *SMALL, "--workdir", workdir))
    assert "sample: 20/20" in out
    assert "train" not in out
    assert (cell / "checkpoints" / "40.json").stat().st_mtime_ns == trained
    assert {name: (cell / name).read_bytes() for name in before} == before


def test_a_task_of_an_array_leaves_to_others_what_they_work_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    with lock(tmp_path / "cells" / CELL):
        out = finished(command("sweep", *SMALL, "--workdir", tmp_path))
    assert out.startswith(f"left to others: {CELL} (")
    assert not (tmp_path / "report.html").exists(), "it is drawn by the one that works"


def test_another_study_in_the_workdir_is_refused(whole):
    process = command("sweep", *SMALL, "--config.train.batch=16", "--workdir", whole[0])
    _, err = process.communicate()
    assert process.returncode == 1
    assert "was made with other settings (config.train.batch is 32 there and 16 here)" in err


def test_sample_gives_the_same_images_for_any_number_of_them(whole, tmp_path):
    model = whole[0] / "cells" / CELL
    drawn = {}
    for name, options in {
        "few": ("--num=5",),
        "more": ("--num=11",),
        "chunk": ("--num=5", "--batch=4"),
    }.items():
        finished(
            command(
                "sample", "--model", model, "--seed=0", "--out", tmp_path / f"{name}.npz", *options
            )
        )
        drawn[name] = np.load(tmp_path / f"{name}.npz")["arr_0"].astype(int)
    np.testing.assert_array_equal(drawn["few"], drawn["more"][:5])
    assert np.abs(drawn["few"] - drawn["chunk"]).max() <= 1, (
        "1e-3 of the range rounds to one grey level at most"
    )
    np.testing.assert_array_equal(drawn["few"], np.load(model / "samples.npz")["arr_0"][:5])
    assert (tmp_path / "few.png").exists()


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    """The cell as a diffusers pipeline folder."""
    out = tmp_path_factory.mktemp("converted") / "pipeline"
    said = finished(command("convert", "--model", whole[0] / "cells" / CELL, "--out", out))
    assert "a diffusers pipeline of" in said
    return out


@pytest.mark.slow
def test_a_converted_cell_is_sampled_as_a_diffusers_folder(folder, tmp_path):
    """Its DDIM keeps eps where x0 is clipped, as diffusers does: other images than the cell's, of the same size."""
    out = finished(
        command("sample", "--model", folder, "--num=3", "--steps=3", "--out", tmp_path / "s.npz")
    )
    assert "3 samples" in out
    assert np.load(tmp_path / "s.npz")["arr_0"].shape == (3, 16, 16, 1)
    again = ("--invert", tmp_path / "s.npz", "--steps=4", "--out", tmp_path / "again.npz")
    assert "round trip: RMS difference a pixel" in finished(
        command("sample", "--model", folder, *again)
    )
    assert np.load(tmp_path / "again.npz")["x_T"].shape == (3, 16, 16, 1)
    process = command("convert", "--model", folder, "--out", folder)
    assert "exists; choose another --out" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.slow
def test_a_workdir_in_a_bucket_is_as_one_on_disk(whole, tmp_path):
    """gs:// is a folder here that behaves as a bucket does; what Orbax itself reads and writes is left out."""
    study = ("tests.experiments.bucket", tmp_path, "sweep", *SMALL, "--workdir=gs://mine/study", f"--config.data.cache={tmp_path}/cache")  # fmt: skip
    assert f"{CELL} train: 40/40" in finished(python(*study))
    disk, bucket = whole[0] / "cells" / CELL, tmp_path / "mine/study/cells" / CELL
    for name in ("config.json", "result.json", "samples.npz", "neighbors.npz"):
        assert (bucket / name).read_bytes() == (disk / name).read_bytes(), name
    steps = [
        [json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()]
        for cell in (bucket, disk)
    ]
    assert steps[0] == steps[1]
    assert (tmp_path / "mine/study/report.html").exists()
    (bucket / "samples.npz").unlink()
    again = finished(python(*study))
    assert "sample: 20/20" in again
    assert "train" not in again
    drawn = (tmp_path / "mine/study/report.html").read_bytes()
    finished(python("tests.experiments.bucket", tmp_path, "report", "--workdir=gs://mine/study"))
    assert (tmp_path / "mine/study/report.html").read_bytes() == drawn


@pytest.mark.slow
def test_seeds_encode_and_decode_each_others_images(tmp_path):
    """Three seeds of one majority with disjoint training images: the first two decode what the third encodes."""
    study = ("--config.seeds=(0,2,4)", "--config.data.parts=5", "--config.data.n=(20,)", "--config.measures.k=(1,2)",
             "--config.measures.inverted=12", "--config.measures.queries=0", "--config.measures.checkpoints=0",
             "--config.measures.lpips=none")  # fmt: skip
    finished(command("sweep", *SMALL, "--workdir", tmp_path, *study))
    compared = json.loads((tmp_path / "shared/comparisons.json").read_text())
    (zero,) = (
        row for row in compared["bias_variance"] if row["name"] == "bias of the encoder itself"
    )
    assert zero["encoder"] == "1-80_20-n20-s4"
    assert zero["n"] + zero["neither"] == 12
    assert 0.5 < zero["|x_T|^2/d"] < 2


@pytest.mark.slow
def test_a_study_starts_from_a_diffusers_folder(folder, whole, tmp_path):
    options = (
        f"--config.train.init={folder}",
        "--config.train.steps=10",
        "--workdir",
        tmp_path / "run",
    )
    finished(command("sweep", *SMALL, *SHORT, *options))
    first, cold = (
        json.loads((d / "cells" / CELL / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for d in (tmp_path / "run", whole[0])
    )
    assert first < 0.9 * cold, (
        "ten steps from trained weights have a smaller loss than ten from random ones"
    )
    process = command(
        "sweep",
        *SMALL,
        *options[:1],
        "--config.diffusion.prediction=v",
        "--workdir",
        tmp_path / "other",
    )
    assert (
        "config.diffusion.prediction is v and config.train.init predicts eps"
        in process.communicate()[1]
    )


def test_the_report_needs_no_jax(whole, tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("raise ImportError('blocked by the test')")
    before = (whole[0] / "report.html").read_bytes()
    run = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "experiments.report",
        f"--workdir=file://{whole[0]}",
    ]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (whole[0] / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--config", "configs/quickstart.py", "--config.train.stepz=3"), "config.train.stepz does not exist; did you mean config.train.steps?"),
        (("--config", "configs/nothing.py"), "there is no config file configs/nothing.py"),
        (("--config", "configs/quickstart.py", "--config.train.steps=many"), "config.train.steps cannot be 'many'"),
        (("--config", "configs/quickstart.py", "--config.models.2=7"), "config.models is changed in the config file"),
        (("--config", "configs/paper_mnist.py"), "at most 260 can be had"),
        (("--config", "configs/quickstart.py", "--workdir", "/proc/nowhere"), "/proc/nowhere cannot be written (No such file or directory); choose another --workdir"),
        ((), "--config is missing"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    """What a study's settings may be is in tests/study/test_cells.py."""
    arguments = (
        arguments if "--workdir" in arguments else (*arguments, "--workdir", tmp_path / "run")
    )
    process = command("sweep", *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert sentence in err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cells_mid_block_is_bypassed(whole, tmp_path):
    flags = (
        "--config.fractions=(0.0,1.0)",
        "--config.forms=('blend',)",
        "--config.num=12",
        "--config.queries=8",
    )
    out = finished(
        command("bypass", "--model", whole[0] / "cells" / CELL, "--workdir", tmp_path, *flags)
    )
    assert (
        "1 (80-20, n = 50, eps, 16 px), blend, p = 0 to 1: change of the samples, RMS a pixel 0 -> 0."
        in out
    )
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "measures.svg",
        f"samples-{CELL}.svg",
    }
    plain = np.load(tmp_path / "samples" / f"{CELL}-0.npz")["arr_0"]
    np.testing.assert_array_equal(
        plain, np.load(whole[0] / "cells" / CELL / "samples.npz")["arr_0"][:12]
    )
    bypassed = np.load(tmp_path / "samples" / f"{CELL}-blend-1.npz")["arr_0"]
    assert np.abs(bypassed.astype(int) - plain).max() > 0
    found = json.loads((tmp_path / "bypass.json").read_text())["models"][CELL]["rows"]
    other = command(
        "bypass",
        "--model",
        whole[0] / "cells" / CELL,
        "--model",
        whole[0] / "cells" / CELL,
        "--workdir",
        tmp_path,
    )
    assert (
        "are the same model of the same seed; give each cell once"
        in other.communicate(timeout=60)[1]
    )
    assert {row["measure"] for row in found} - {"share"} == {"quality", "lpips", "neighbors", "memorization", "fidelity",
                                                             "effective_k", "moved"}  # fmt: skip
