"""experiments.bypass on a small Stable Diffusion folder, as users call it (test_sweep.py has it on a trained cell)."""

import csv
import json

import pytest

from tests.experiments.test_sweep import command, finished
from tests.stable_diffusion import tiny

FEW = ("--config.steps=3", "--config.fractions=(0.0,1.0)", "--config.forms=('blend',)", "--config.guidances=(1.0,)",
       "--config.seeds=(0,1)", "--config.space=vgg")  # fmt: skip


@pytest.mark.slow
def test_pictures_curves_and_sheets_and_nothing_is_drawn_twice(tmp_path):
    folder, workdir = tiny.write_pipeline(tmp_path / "tiny"), tmp_path / "out"
    flags = ("--model", folder, "--workdir", workdir, "--prompts", "a woman, a queen", *FEW)
    out = finished(command("bypass", *flags))
    assert "tiny, blend, p = 0 to 1: LPIPS between prompts" in out
    names = sorted(path.name for path in (workdir / "pictures" / "tiny-blend-1").iterdir())
    assert names == [
        f"{i}-{slug}-seed{s}.png" for i, slug in enumerate(("a-woman", "a-queen")) for s in (0, 1)
    ]
    assert {path.name for path in (workdir / "figures").iterdir()} == {
        "likeness.svg",
        "tiny-blend.svg",
        "tiny-guidance.svg",
    }
    with (workdir / "tables" / "likeness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["form"], r["p"], r["guidance"]) for r in rows} == {
        ("", "0.0", "7.5"),
        ("", "0.0", "1.0"),
        ("blend", "1.0", "7.5"),
    }
    before = (workdir / "bypass.json").read_bytes()
    png = workdir / "pictures" / "tiny-blend-1" / names[0]
    drawn, age = png.read_bytes(), (workdir / "parts" / "tiny-guidance-1.json").stat().st_mtime_ns
    png.unlink()
    finished(command("bypass", *flags))
    assert (png.read_bytes(), (workdir / "bypass.json").read_bytes()) == (drawn, before)
    assert (workdir / "parts" / "tiny-guidance-1.json").stat().st_mtime_ns == age
    assert json.loads(before)["settings"]["prompts"] == ["a woman", "a queen"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--config.fractions=(0.0,1.5)",), "config.fractions is (0.0, 1.5)"),
        (
            ("--config.fraction=1",),
            "config.fraction does not exist; did you mean config.fractions?",
        ),
        ((), "lacks its part vae; get the whole diffusers folder"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path):
    folder = tiny.write_configs(tmp_path / "tiny")
    (folder / "vae" / "config.json").unlink()
    (folder / "vae").rmdir()
    process = command("bypass", "--model", folder, "--workdir", tmp_path / "run", *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(err.strip().splitlines()) == 1
    assert sentence in err
    assert not (tmp_path / "run").exists()
