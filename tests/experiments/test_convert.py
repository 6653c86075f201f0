"""convert writes no schedule that the model lacks, and nothing that cannot be read again."""

import json

import numpy as np
import pytest

from jaxdiff import diffusers_io, diffusers_scheduler, models
from jaxdiff.denoiser import get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from tests.experiments.commands import fail_command, run_command
from tests.stand_in_hub import OWNER, TOKEN, StandInHub

pytestmark = pytest.mark.slow


def test_a_unet_without_a_scheduler_is_not_converted(tiny, tmp_path):
    diffusers_io.save_unet(tiny, tmp_path / "unet")
    out = tmp_path / "cell"
    sentence = fail_command("convert", "--model", tmp_path / "unet", "--out", out)
    assert "must have the scheduler_config.json of its training" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unet"]


@pytest.mark.parametrize("name", ["a[1]b", "a\\b", "a*"])
def test_a_folder_that_holds_no_checkpoints_is_refused_by_its_name(name, tiny, tmp_path):
    diffusers_io.save_pipeline(tiny, diffusers_scheduler.DEFAULT, tmp_path / "model")
    out = tmp_path / name
    sentence = fail_command("convert", "--model", tmp_path / "model", "--out", out)
    assert f"in {out}; choose another folder" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.fixture
def cell(tiny, tmp_path):
    """A model in a cell's form, with a measure."""
    folder = tmp_path / "cell"
    models.save(models.Model(tiny, Schedule.cosine(50), "v", image_shape=(8, 8, 1)), folder)
    share = Estimate(0.2, 0.1, 0.3, 64, name="classified").to_json()
    result = {"schema": 1, "cell": {"data": "drawn digits"}, "share": [share]}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The hub that commands find, by their environment."""
    server = StandInHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()


def test_what_is_pushed_is_loaded_again_by_its_id(stand_in, cell, tmp_path):
    name = f"{OWNER}/tiny"
    out = tmp_path / "out"
    printed = run_command(
        "convert", "--model", cell, "--out", out, "--push", name, "--license", "mit"
    )
    assert f"uploaded: {stand_in.url}/{name}/commit/" in printed
    repository = stand_in.repositories[name]
    content = repository.commits[repository.branches["main"]]
    for path in out.rglob("*.*"):
        assert content[path.relative_to(out).as_posix()] == path.read_bytes()
    card = content["README.md"].decode()
    assert card.startswith("---\nlicense: mit\n")
    assert f'jd.load("{name}")' in card

    printed = run_command("convert", "--model", name, "--out", tmp_path / "again")
    assert f"{name} at commit {repository.branches['main'][:12]}: " in printed
    params = get_params(models.load(cell).unet)
    for key, value in get_params(models.load(tmp_path / "again").unet).items():
        np.testing.assert_array_equal(value, params[key])


def test_a_push_without_a_token_is_refused_before_anything_is_written(
    stand_in, cell, tmp_path, monkeypatch
):
    monkeypatch.delenv("HF_TOKEN")
    arguments = ("--model", cell, "--out", tmp_path / "out", "--push")
    assert "nobody is logged in who could" in fail_command("convert", *arguments, "someone/tiny")
    assert "pushed to OWNER/NAME, got 'tiny'" in fail_command("convert", *arguments, "tiny")
    assert not (tmp_path / "out").exists()
    assert not stand_in.repositories


def test_a_push_that_the_hub_refuses_leaves_the_folder(stand_in, cell, tmp_path):
    out = tmp_path / "out"
    sentence = fail_command("convert", "--model", cell, "--out", out, "--push", "other/tiny")
    assert "the hub refused other/tiny (" in sentence
    assert "403 Forbidden: You don't have the rights to create a model" in sentence
    assert (out / "README.md").exists()
