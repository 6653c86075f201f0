"""experiments.probe as users call it, on two small diffusers folders."""

import csv
import json

import numpy as np
import pytest
from flax import nnx

from jaxdiff import diffusers_io
from jaxdiff.unet import UNet, UNetConfig
from tests.experiments.commands import fail_command, run_command

CONFIG = UNetConfig(
    (4,),
    norm_num_groups=2,
    layers_per_block=1,
    mid_block=False,
    in_channels=1,
    out_channels=1,
    sample_size=8,
)
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 100}
FLAGS = ("--num=3", "--noise=0.3", "--ranks=2,4", "--decoder_steps=4", "--steps=8")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of one configuration, which compiles once, and images.npz."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("first", "second")):
        network = UNet(CONFIG, rngs=nnx.Rngs(seed))
        diffusers_io.save_pipeline(network, SCHEDULER, root / name)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    np.savez(root / "images.npz", images)
    return root


def list_arguments(folder, workdir, *arguments):
    """Of the command: both models, the images, and further arguments."""
    models = (f"--model={folder / 'first'}", f"--model={folder / 'second'}")
    reference = f"--reference={folder / 'images.npz'}"
    return ("probe", *models, reference, f"--workdir={workdir}", *FLAGS, *arguments)


def read_table(workdir, name):
    with (workdir / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def modification_times(workdir):
    return {path: path.stat().st_mtime_ns for path in (workdir / "parts").iterdir()}


def test_two_models_their_verdicts_and_resuming(folder, tmp_path):
    output = run_command(*list_arguments(folder, tmp_path))
    print(output)
    result = json.loads((tmp_path / "probe.json").read_text())
    assert result["ranks"] == [2, 4]
    depths = {name: entry["depth"] for name, entry in result["models"].items()}
    assert depths == {"first": 1, "second": 1}
    networks = {(row["weights"], row["level"]) for row in result["models"]["second"]["rows"]}
    assert networks == {(w, level) for w in ("trained", "random") for level in range(3)}
    for name in ("against_level", "against_noise", "against_depth", "verdicts"):
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()

    kinds = {"level with level", "bottleneck with bottleneck", "level 0 with level 0"}
    assert {row["comparison"] for row in read_table(tmp_path, "verdicts")} == kinds
    summary = read_table(tmp_path, "summary")
    assert {row["comparison"] for row in summary} == kinds | {"premise", "pixels"}
    for comparison in ("premise", *kinds):
        assert comparison in output
    assert "first -> second" in output

    times = modification_times(tmp_path)
    assert len(times) == 2 * 2 * 3
    run_command(*list_arguments(folder, tmp_path))
    assert modification_times(tmp_path) == times, "nothing is done twice"
    assert json.loads((tmp_path / "probe.json").read_text()) == result

    redone = "first-trained-t30-level0"
    run_command(*list_arguments(folder, tmp_path, f"--redo={redone}"))
    changed = [path for path, time in modification_times(tmp_path).items() if time != times[path]]
    assert [path.stem for path in changed] == [redone]
    assert json.loads((tmp_path / "probe.json").read_text()) == result


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--levels=0,9"], "level 9 does not exist; this U-Net has 0, 1, 2: 0 is the pixels"),
        (["--model=configs"], "configs is no model: it has no config.json"),
        (["--reference=docs"], "docs holds 0 images"),
        (["--readings=norms"], "--readings must be of hessian, maps, pull_back"),
        (["--noise=high"], "--noise must be numbers from 0 to 1, as 0.1,0.3, got 'high'"),
        (
            ["--c=1e-9", "--readings=memory"],
            "the memory at level 0 with the scaled tau (--c): tau must be at least",
        ),
        (["--noise="], "--noise must be numbers from 0 to 1, as 0.1,0.3, got ''"),
        (["--classes=6,9"], "--classes needs a dataset by name"),
        (["--redo=*-level9"], "--redo *-level9 matches no stage; the stages are first-random-"),
    ],
)
def test_bad_input_gets_a_sentence(folder, tmp_path, arguments, sentence):
    assert sentence in fail_command(*list_arguments(folder, tmp_path / "out", *arguments))


def test_a_dataset_by_name_is_prepared_at_the_size_of_the_models(folder, tmp_path):
    run_command(*list_arguments(folder, tmp_path, "--reference=digits", "--readings=hessian"))


def test_images_of_another_size(folder, tmp_path):
    large = tmp_path / "large.npz"
    np.savez(large, np.zeros((4, 16, 16, 1), np.uint8))
    sentence = fail_command(*list_arguments(folder, tmp_path / "out", f"--reference={large}"))
    expected = "first takes images of 8 x 8 x 1 (height x width x channels), got images of 16"
    assert expected in sentence
    assert not (tmp_path / "out").exists()
