"""The examples as a user would run them: by commands, from the root of a checkout."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.experiments.commands import CELL, SHORT, SMALL, fail_command, run_command

pytestmark = pytest.mark.slow

DIT_STUDY = """
from ml_collections import ConfigDict

from tests.experiments import tiny_study


def get_config():
    config = tiny_study.get_config()
    config.plugins = ("examples.new_model",)
    config.models = ConfigDict({"dit": {"type": "dit", "width": 32, "heads": 2, "blocks": 1}})
    return config
"""


def read_json(path):
    return json.loads(path.read_text())


def modified(folder) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}


def test_a_new_measure_is_one_file(tmp_path, monkeypatch):
    """In result.json, as CSV, figure and section; edited, it alone is made again."""
    plugin = tmp_path / "plugins" / "my_measure.py"
    plugin.parent.mkdir()
    shutil.copy("examples/new_measure.py", plugin)
    assert len(plugin.read_text().splitlines()) <= 25
    monkeypatch.setenv("PYTHONPATH", f"{plugin.parent}{os.pathsep}{os.getcwd()}")
    workdir = tmp_path / "run"
    command = ("sweep", *SMALL, *SHORT, "--config.plugins=('my_measure',)", "--workdir", workdir)
    run_command(*command)
    cell = workdir / "cells" / CELL
    (name,) = set(modified(cell)) & {"brightness"}
    assert read_json(cell / "result.json")[name]
    assert (workdir / "tables" / f"{name}.csv").exists()
    assert (workdir / "figures" / f"{name}.svg").exists()
    assert f'id="measure-{name}"' in (workdir / "report.html").read_text()

    before = modified(cell)
    plugin.write_text(plugin.read_text() + "\n# edited\n")
    run_command(*command)
    after = modified(cell)
    assert {stage for stage in after if after[stage] != before[stage]} == {name, "run"}

    evaluated = tmp_path / "evaluated"
    run_command(
        "evaluate",
        f"--samples={cell / 'samples.npz'}",
        f"--reference={cell / 'samples.npz'}",
        "--spaces=pixels",
        "--lpips=none",
        "--plugins=my_measure",
        f"--workdir={evaluated}",
    )
    assert read_json(evaluated / "sets" / "samples" / "result.json")[name]
    assert (evaluated / "figures" / f"{name}.svg").exists()


def test_a_new_model_is_swept_and_the_probe_says_what_it_needs(tmp_path):
    config = tmp_path / "dit_study.py"
    config.write_text(DIT_STUDY)
    workdir = tmp_path / "run"
    short = ("--config.train.steps=10", "--config.measures.checkpoints=0")
    run_command("sweep", "--config", config, *short, "--workdir", workdir)
    (cell,) = (workdir / "cells").iterdir()
    result = read_json(cell / "result.json")
    assert result["cell"]["depth"] == 0
    assert {"quality", "share", "lpips", "neighbors", "memorization", "effective_k"} <= set(result)
    assert (workdir / "report.html").exists()
    sentence = fail_command(
        "probe", "--model", cell, "--plugins=examples.new_model", "--workdir", tmp_path / "probe"
    )
    assert "encode" in sentence
    samples = tmp_path / "samples.npz"
    run_command(
        "sample", "--model", cell, "--num=3", "--plugins=examples.new_model", "--out", samples
    )
    expected = np.load(cell / "samples.npz")["arr_0"][:3]
    np.testing.assert_array_equal(np.load(samples)["arr_0"], expected)


def test_a_new_sampler_and_a_new_dataset_are_used_by_a_study(tmp_path):
    options = (
        "--config.plugins=('examples.new_sampler','examples.new_dataset')",
        "--config.sample.method=dpmpp_2m",
        "--config.data.source=shapes",
        "--config.data.classes=(0,1)",
    )
    run_command("sweep", *SMALL, *SHORT, *options, "--workdir", tmp_path)
    (cell,) = (tmp_path / "cells").iterdir()
    assert read_json(cell / "config.json")["sample"]["method"] == "dpmpp_2m"
    assert (cell / "result.json").exists()


def test_the_notebook_runs(tmp_path):
    command = [sys.executable, "-W", "ignore", os.path.abspath("examples/notebook.py"), "20"]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "HOME": str(tmp_path)}
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    assert "LPIPS over all pairs" in process.stdout
    assert "loaded again: True" in process.stdout
