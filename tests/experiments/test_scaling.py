"""python -m experiments.scaling, as users call it."""

import subprocess
import sys

import pytest

from tests.experiments.commands import fail_command, run_command
from tests.scaling.simulated_points import simulate_points
from tests.scaling.small_cells import make_cells, write_cells

pytestmark = pytest.mark.slow


def test_two_folders_are_fitted(tmp_path):
    cells = make_cells(simulate_points(0.003, depths=(2,)))
    write_cells(tmp_path / "a", cells[::2])
    write_cells(tmp_path / "b", cells[1::2])
    out = run_command("scaling", "--workdir", tmp_path / "a", "--workdir", tmp_path / "b")
    assert f"{len(cells)} models fitted" in out
    assert "relative_error" in out
    written = {path.name for path in (tmp_path / "a" / "scaling").iterdir()}
    assert written == {"scaling.html", "scaling.json", "figures", "tables"}
    run_command("scaling", f"--workdir={tmp_path / 'a'}", f"--out={tmp_path / 'c'}")
    assert (tmp_path / "c" / "scaling.html").exists()


def test_bad_input_is_one_sentence(tmp_path):
    assert "--workdir is missing" in fail_command("scaling")
    assert "holds no finished cell" in fail_command("scaling", "--workdir", tmp_path / "x")


def test_jax_is_not_imported():
    code = "import sys, experiments.scaling; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
