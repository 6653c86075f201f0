"""What the commands share, in this process: outputs that are checked before any work."""

import os
import subprocess
import sys

import pytest
from absl import flags
from rich.table import Column, Table

from experiments import _cli
from jaxdiff import compilation_cache
from tests.experiments.commands import SMALL, fail_command


@pytest.fixture
def set_out(monkeypatch):
    """Sets the flag --out, which the commands define."""
    values = flags.FlagValues()
    flags.DEFINE_string("out", "", "A file.", flag_values=values)
    values.mark_as_parsed()
    monkeypatch.setattr(flags, "FLAGS", values)
    return lambda value: setattr(values, "out", str(value))


@pytest.mark.parametrize("name", ["x.png", "x", "x.npz.png", "x.NPZ", ".npz"])
def test_an_output_cannot_take_the_name_of_another(name, set_out, tmp_path):
    set_out(tmp_path / name)
    with pytest.raises(ValueError, match=r"--out must name a file that ends in .npz, got"):
        _cli.output_file("out", ".npz")


@pytest.mark.parametrize("name", ["samples.npz", "model/samples.npz", "model/unet/x.npz"])
def test_an_output_cannot_replace_what_is_read(name, set_out, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "samples.npz").touch()
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name, f"model/../{name}"):
        set_out(path)
        with pytest.raises(ValueError, match="--out must be outside what is read"):
            _cli.output_file("out", ".npz", ["model", str(tmp_path / "samples.npz")])


def test_an_output_beside_what_is_read(set_out, tmp_path):
    (tmp_path / "model").mkdir()
    set_out(tmp_path / "model.npz")
    assert _cli.output_file("out", ".npz", [str(tmp_path / "model")]) == tmp_path / "model.npz"
    (tmp_path / "model.npz").mkdir()
    with pytest.raises(ValueError, match=r"model.npz is a folder; add a file's name"):
        _cli.output_file("out", ".npz")


@pytest.mark.parametrize("folder", [None, "/somewhere/programs"])
def test_the_place_of_compiled_programs_is_said(folder, monkeypatch, capsys):
    monkeypatch.setattr(compilation_cache, "enable", {"cpu": folder}.get)
    _cli.start_devices()
    expected = f"compiled programs are kept in {folder}\n" if folder else ""
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [("cuda", "cuda,cpu"), ("tpu,cpu", "tpu,cpu"), ("cpu", "cpu"), ("", "")],
)
def test_a_platform_has_the_cpu_beside_it(platforms, expected, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    _cli.prepare_environment()
    assert os.environ["JAX_PLATFORMS"] == expected


@pytest.mark.slow
def test_a_number_of_processes_without_their_place_is_refused():
    sentence = fail_command("sweep", *SMALL, "--processes=2", "--process_id=0")
    assert "--processes and --process_id need --coordinator=HOST:PORT" in sentence


NAMES = ("[6]", "[/a/b]", "runs/[x]/y", "[bold]", "a [/] b", ":smile:", "x[link=a]", "\\[x]")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_names_are_printed_as_they_are(name, is_terminal, capsys, monkeypatch):
    """As a line, a table's title, column and cell, a task of the progress, and its note."""
    monkeypatch.setattr(_cli.console, "_force_terminal", is_terminal)
    monkeypatch.setattr(_cli.console, "_width", 200)
    _cli.console.print(f"report: {name}")
    table = Table(Column(name), title=name)
    table.add_row(name)
    _cli.console.print(table, width=200)
    with _cli.Reporter() as progress:
        progress.prefix = "[1/3] cell"
        progress(name, 0, 2, name)
        _cli.console.print(progress._live.get_renderable())
        progress(name, 2, 2, name)
    lines = capsys.readouterr().out
    assert f"report: {name}\n" in lines
    assert lines.count(name) >= 6


def test_the_time_left_leaves_out_the_first_unit_which_compiles(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_cli.time, "time", lambda: now[0])
    with _cli.Reporter(every=1.0) as progress:
        # The first unit takes 100 s, the others `pace` each; a task begins anew under its name.
        for start, pace in ((0.0, 2.0), (1000.0, 4.0)):
            for unit, seconds in enumerate((0.0, 100.0, 100.0 + pace, 100.0 + 2 * pace)):
                now[0] = start + seconds
                progress("train", unit, 10)
            progress("train", 10, 10)
    lines = capsys.readouterr().out.splitlines()
    left = [line.partition(", about ")[2] for line in lines if "about" in line]
    assert left == ["16 s left", "14 s left", "32 s left", "28 s left"]
    assert lines[1] == "train: 1/10"


def test_the_environment_is_set_before_jax_and_numpy_are_imported():
    """Both read it once, when they are imported."""
    code = "import sys; from experiments import _cli; print({'jax', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "out", "suffix"),
    [
        (("sample", "--model=m"), "x.png", ".npz"),
        (("dataset", "--name=digits"), "x.npz", ".png"),
        (("plan", "--config=configs/quickstart.py"), "configs/quickstart.py", ".csv"),
    ],
)
def test_every_command_checks_its_output_first(command, out, suffix):
    sentence = fail_command(*command, f"--out={out}")
    assert f"--out must name a file that ends in {suffix}, got '{out}'" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "theorems", "dataset"])
def test_sizes_that_take_all_memory_are_refused(command):
    sentence = fail_command(command, "--size=100000")
    assert "100000 is not an integer in the range" in sentence


def test_short_names_are_whole():
    """A folder's name may have points in it, as that of a cell of another width."""
    cell = "runs/cells/2-w1.25-t400-50_50-n120000-s0"
    assert _cli.short_names([cell, "a/x.npz"]) == ["2-w1.25-t400-50_50-n120000-s0", "x"]
    assert _cli.short_names(["a/x.npz", "b/x"]) == ["1-x", "2-x"]
