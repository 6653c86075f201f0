"""Hostile inputs in bulk: each is refused in one sentence, or taken for what it says."""

import pytest

from tests.experiments.fuzz import (
    boundary,
    config_inputs,
    folder_inputs,
    model_inputs,
    npz_inputs,
    run_inputs,
)

pytestmark = pytest.mark.slow


def check(area: str, inputs: list[boundary.Input], minimum: int) -> None:
    """Give every input to its command; the count is shown by pytest -rP."""
    print(f"{area}: {len(inputs)} inputs")
    assert len(inputs) >= minimum
    faults = boundary.find_faults(inputs)
    assert not faults, "\n".join([f"{len(faults)} of {len(inputs)}:", *faults])


def test_config_values(tmp_path, monkeypatch):
    sweep = boundary.load_command("sweep")
    config_inputs.patch(sweep, monkeypatch)
    check("config values", list(config_inputs.build(sweep, tmp_path)), 700)


def test_fields_and_files_of_a_model(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert = boundary.load_command("convert")
    sample = boundary.load_command("sample")
    for command in (convert, sample):
        model_inputs.patch(command, monkeypatch)
    inputs = list(model_inputs.build(convert, sample, tiny, tmp_path))
    check("fields and files of a model", inputs, 400)
    assert not (tmp_path / "pickles_were_run").exists()


def test_files_of_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate = boundary.load_command("evaluate")
    npz_inputs.patch(evaluate, monkeypatch)
    check("files of arrays", list(npz_inputs.build(evaluate, tmp_path)), 120)
    assert not list(tmp_path.glob("*_were_run"))


def test_folders_of_images(tmp_path, monkeypatch):
    evaluate = boundary.load_command("evaluate")
    dataset = boundary.load_command("dataset")
    folder_inputs.patch(evaluate, monkeypatch)
    inputs = list(folder_inputs.build(evaluate, dataset, tmp_path))
    check("folders of images", inputs, 300)


def test_files_of_a_run(tmp_path, monkeypatch):
    report = boundary.load_command("report")
    sweep = boundary.load_command("sweep")
    run_inputs.patch(monkeypatch)
    config_inputs.patch(sweep, monkeypatch)
    check("files of a run", list(run_inputs.build(report, sweep, tmp_path)), 600)
