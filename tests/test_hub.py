"""Repository ids, against a stand-in for the hub that speaks what huggingface_hub calls."""

import builtins
import dataclasses
import json

import numpy as np
import pytest
from etils import epath
from huggingface_hub import constants

from jaxdiff import diffusers_io, diffusers_scheduler, hub, models
from jaxdiff.bypass import text_to_image
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.denoiser import get_params
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.study import grid, stages
from tests.experiments import tiny_study
from tests.stable_diffusion import tiny as stable_diffusion
from tests.stand_in_hub import TOKEN, Handler, Refused, StandInHub
from tests.test_diffusers_io import write_legacy_shards

NAME = "someone/tiny-ddpm"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    server = StandInHub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.open_snapshot.cache_clear()
    yield server
    hub.open_snapshot.cache_clear()
    server.close()


@pytest.fixture
def folder(tiny, tmp_path):
    """A pipeline's folder with files that are not read."""
    path = tmp_path / "local"
    diffusers_io.save_pipeline(tiny, diffusers_scheduler.DEFAULT, path)
    for name in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.bin"):
        (path / name).write_bytes(b"another form")
    (path / "samples.png").write_bytes(b"a picture")
    return path


def go_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.open_snapshot.cache_clear()


def assert_same(model, other):
    for name, value in get_params(model.unet).items():
        np.testing.assert_array_equal(value, get_params(other.unet)[name])


def test_a_model_is_loaded_by_its_id_and_only_what_is_read_is_fetched(stand_in, folder):
    stand_in.add(NAME, folder)
    assert_same(models.load(NAME), models.load(folder))
    assert stand_in.fetched() == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }


def test_no_weights_are_fetched_for_the_settings(stand_in, folder):
    stand_in.add(NAME, folder)
    assert models.load_spec(NAME).config == models.load_spec(folder).config
    assert not any(name.endswith(".safetensors") for name in stand_in.fetched())


def test_the_second_time_needs_no_network(stand_in, folder, monkeypatch):
    stand_in.add(NAME, folder)
    models.load(NAME)
    asked = len(stand_in.requests)
    go_offline(monkeypatch)
    assert_same(models.load(NAME), models.load(folder))
    assert len(stand_in.requests) == asked


@pytest.mark.slow
def test_the_cached_copy_is_used_where_the_hub_cannot_be_reached(stand_in, folder, monkeypatch):
    stand_in.add(NAME, folder)
    models.load(NAME)
    hub.open_snapshot.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert_same(models.load(NAME), models.load(folder))


@pytest.mark.slow
def test_a_cache_without_a_list_of_the_files_is_read(stand_in, folder, monkeypatch):
    """As an older huggingface_hub leaves it."""
    stand_in.add(NAME, folder)
    models.load(NAME)
    monkeypatch.setattr("huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE", {})
    for path in (folder.parent / "cache").glob("models--*/trees/*.json"):
        path.unlink()
    go_offline(monkeypatch)
    assert_same(models.load(NAME), models.load(folder))


def test_what_is_not_cached_is_said_where_there_is_no_network(stand_in, folder, monkeypatch):
    stand_in.add(NAME, folder)
    models.load_spec(NAME)
    go_offline(monkeypatch)
    with pytest.raises(ValueError, match="hub cannot be reached, and what is read of it is"):
        models.load(NAME)
    with pytest.raises(ValueError, match="someone/other is no folder, the hub cannot be reached"):
        models.load("someone/other")


def test_a_revision_and_a_subfolder_are_read(stand_in, folder, tiny, tmp_path):
    """The scheduler is found above the subfolder, as in a folder on disk."""
    first = stand_in.add(NAME, folder)
    fields = {"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}
    changed = tmp_path / "changed"
    diffusers_io.save_unet(tiny, changed / "runs" / "checkpoint-20" / "unet")
    (changed / "runs" / "scheduler_config.json").write_text(json.dumps(fields))
    stand_in.add(NAME, changed, branch="more")
    assert models.load(f"{NAME}@{first}").prediction == "eps"
    assert models.load(f"{NAME}@more/runs/checkpoint-20").prediction == "v"
    assert models.load(f"{NAME}@more/runs/checkpoint-20/unet").prediction == "v"
    assert models.load(f"{NAME}/unet").prediction == "eps"


def test_weights_in_shards_are_fetched_by_their_index(stand_in, folder, tmp_path):
    write_legacy_shards(folder / "unet")
    stand_in.add(NAME, folder)
    assert_same(models.load(NAME), models.load(folder))
    assert sum("-of-" in name for name in stand_in.fetched()) == 2


def test_a_moved_branch_is_another_commit_and_other_weights(stand_in, folder, tiny, tmp_path):
    first = stand_in.add(NAME, folder)
    before = models.weights_digest(NAME)
    assert before == models.weights_digest(folder)
    assert hub.describe(NAME) == {"repository": NAME, "commit": first}
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    second = stand_in.add(NAME, folder)
    assert hub.describe(NAME)["commit"] == first  # one commit a process
    hub.open_snapshot.cache_clear()
    assert hub.describe(NAME)["commit"] == second
    assert models.weights_digest(NAME) != before
    assert models.weights_digest(f"{NAME}@{first}") == before


def test_a_cell_names_the_commit_of_its_first_weights(stand_in, folder, tmp_path):
    """run.json has the commit; what training is bound to are the weights."""
    commit = stand_in.add(NAME, folder)
    (cell,) = grid.expand(tiny_study.get_config())
    cell = dataclasses.replace(cell, train=dataclasses.replace(cell.train, init=NAME))
    context = CellContext(cell, epath.Path(tmp_path) / "study", DataPaths("", ""))
    stages._write_run(context)
    run = json.loads((context.folder / "run.json").read_text())
    assert run["init"] == {"repository": NAME, "commit": commit}
    assert context.training_data()["init"] == models.weights_digest(folder)


def test_the_parts_of_stable_diffusion_are_fetched_with_their_weights(stand_in, tmp_path):
    local = epath.Path(stable_diffusion.write_pipeline(tmp_path / "pipeline"))
    stand_in.add(NAME, tmp_path / "pipeline")
    fetched = hub.find_folder(NAME)
    folders.check(fetched)
    for part, names in folders.WEIGHTS_NAMES.items():
        hub.fetch_weights(NAME, fetched / part, *names)
    assert text_to_image.pipeline_digest(fetched) == text_to_image.pipeline_digest(local)


def test_a_folder_on_disk_comes_first(stand_in, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "someone").mkdir()
    folder.rename(folder.parent / NAME)
    stand_in.requests.clear()
    models.load(NAME)
    assert hub.describe(NAME) == {}
    with pytest.raises(ValueError, match="someone/typo is no model"):
        models.load("someone/typo")
    assert not stand_in.requests


@pytest.mark.parametrize("path", ["/tmp/a", "./a/b", "a/../b", "~/a", "a", "gs://bucket/a", ""])
def test_paths_are_no_ids(path):
    assert hub.parse_id(path) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a/b", ("a/b", None, "")),
        ("a/b/", ("a/b", None, "")),
        ("a/b@v1.0", ("a/b", "v1.0", "")),
        ("a/b@main/unet", ("a/b", "main", "unet")),
        ("a/b/runs/checkpoint-20", ("a/b", None, "runs/checkpoint-20")),
        ("a/b@refs/pr/3/unet", ("a/b", "refs/pr/3", "unet")),
        ("a/b@feature%2Fema", ("a/b", "feature/ema", "")),
    ],
)
def test_ids_have_a_repository_a_revision_and_a_subfolder(text, parts):
    assert hub.parse_id(text) == hub.RepositoryId(*parts)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("someone/nothing", "must be a folder, or the id of a repository that the hub shows you"),
        (f"{NAME}@nowhere", f"{NAME}@nowhere names a revision that {NAME} lacks; choose another"),
        (f"{NAME}@{'0' * 40}", "names a revision that"),
        (f"{NAME}/nothing", "must have a config.json, or a unet/config.json, and has neither at"),
        (f"{NAME}@main/scheduler", "scheduler is no model: it has no config.json"),
        ("some--one/tiny", "some--one/tiny is neither a folder nor a repository id"),
    ],
)
def test_a_wrong_id_is_one_sentence(name, sentence, stand_in, folder):
    stand_in.add(NAME, folder)
    with pytest.raises(ValueError, match=sentence):
        models.load(name)


def test_a_gated_repository_is_one_sentence_and_opens_with_a_token(stand_in, folder, monkeypatch):
    stand_in.add(NAME, folder)
    stand_in.repositories[NAME].is_gated = True
    with pytest.raises(ValueError, match=f"{NAME} is gated: accept its terms at http://"):
        models.load(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_same(models.load(NAME), models.load(folder))


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ("unet/diffusion_pytorch_model", "must have weights, diffusion_pytorch_model.safetensors"),
        ("unet/config.json", "is no model: it has no config.json|no diffusers folder"),
    ],
)
def test_missing_files_are_one_sentence(removed, sentence, stand_in, folder):
    for path in folder.glob(f"{removed}*"):
        path.unlink()
    stand_in.add(NAME, folder)
    with pytest.raises(ValueError, match=sentence):
        models.load(NAME)


def test_a_hub_that_fails_is_one_sentence(stand_in, folder, monkeypatch):
    stand_in.add(NAME, folder)

    def fail(*_):
        raise Refused(503)

    monkeypatch.setattr(Handler, "model_info", fail)
    with pytest.raises(ValueError, match="the hub cannot be reached"):
        models.load(NAME)


def test_the_extra_is_named_where_it_is_not_installed(stand_in, monkeypatch):
    find = builtins.__import__

    def refuse(name, *arguments):
        if name == "huggingface_hub":
            raise ImportError(name)
        return find(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"pip install 'jaxdiff\[hub\]', or give a folder"):
        models.load(NAME)
