"""experiments.bypass on a small Stable Diffusion folder; test_sweep has it on a trained cell."""

import csv
import json

import pytest

from tests.experiments.commands import fail_command, run_command
from tests.stable_diffusion import tiny

pytestmark = pytest.mark.slow

SHORT = (
    "--config.steps=3",
    "--config.fractions=(0.0,1.0)",
    "--config.forms=('blend',)",
    "--config.guidances=(1.0,)",
    "--config.seeds=(0,1)",
    "--config.space=vgg",
)


def test_images_tables_and_figures_and_no_image_is_made_twice(tmp_path):
    folder = tiny.write_pipeline(tmp_path / "tiny")
    workdir = tmp_path / "out"
    flags = ("--model", folder, "--workdir", workdir, "--prompts", "a woman, a queen", *SHORT)
    output = run_command("bypass", *flags)
    for words in ("tiny", "blend", "0 to 1", "LPIPS between prompts"):
        assert words in output
    names = sorted(path.name for path in (workdir / "pictures" / "tiny-blend-1").iterdir())
    assert names == [
        f"{i}-{slug}-seed{seed}.png"
        for i, slug in enumerate(("a-woman", "a-queen"))
        for seed in (0, 1)
    ]
    assert {path.name for path in (workdir / "figures").iterdir()} == {
        "likeness.svg",
        "tiny-blend.svg",
        "tiny-guidance.svg",
    }
    with (workdir / "tables" / "likeness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["form"], row["p"], row["guidance"]) for row in rows} == {
        ("", "0.0", "7.5"),
        ("", "0.0", "1.0"),
        ("blend", "1.0", "7.5"),
    }
    content = (workdir / "bypass.json").read_bytes()
    part = workdir / "parts" / "tiny-guidance-1.json"
    part_time = part.stat().st_mtime_ns
    png = workdir / "pictures" / "tiny-blend-1" / names[0]
    png_content = png.read_bytes()
    png.unlink()
    run_command("bypass", *flags)
    assert png.read_bytes() == png_content
    assert (workdir / "bypass.json").read_bytes() == content
    assert part.stat().st_mtime_ns == part_time
    assert json.loads(content)["settings"]["prompts"] == ["a woman", "a queen"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--config.fractions=(0.0,1.5)",),
            "config.fractions[1] must be at least 0 and at most 1, got 1.5",
        ),
        (
            ("--config.fraction=1",),
            "config.fraction does not exist; did you mean config.fractions?",
        ),
        ((), "lacks its part vae; get the whole diffusers folder"),
        (("--redo=blend-1",), "--redo blend-1 matches no stage; the stages are tiny-"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path):
    folder = tiny.write_configs(tmp_path / "tiny")
    (folder / "vae" / "config.json").unlink()
    (folder / "vae").rmdir()
    workdir = tmp_path / "run"
    assert sentence in fail_command("bypass", "--model", folder, "--workdir", workdir, *flags)
    assert not workdir.exists()
