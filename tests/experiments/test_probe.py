"""experiments.probe as users call it, on two small diffusers folders."""

import csv
import json

import numpy as np
import pytest
from flax import nnx

from jaxdiff import diffusers_io
from jaxdiff.unet import UNet, UNetConfig
from tests.experiments.test_sweep import command, finished

SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 100}
FEW = ("--num=3", "--noise=0.3", "--ranks=2,4", "--decoder_steps=4", "--steps=8")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Two folders and the images."""
    root = tmp_path_factory.mktemp("given")
    for seed, name in enumerate(("first", "second")):  # of one configuration, which compiles once
        config = UNetConfig((8,), norm_num_groups=4, layers_per_block=1, add_attention=False, in_channels=1,
                            out_channels=1, sample_size=8)  # fmt: skip
        diffusers_io.save_pipeline(UNet(config, rngs=nnx.Rngs(seed)), SCHEDULER, root / name)
    np.savez(
        root / "images.npz",
        np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8),
    )
    return root


def run(given, workdir, *more):
    models = (f"--model={given / 'first'}", f"--model={given / 'second'}")
    return command(
        "probe", *models, f"--reference={given / 'images.npz'}", f"--workdir={workdir}", *FEW, *more
    )


def test_two_models_their_verdicts_and_again(given, tmp_path):
    out = finished(run(given, tmp_path))
    print(out)
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["ranks"] == [2, 4]
    assert {name: each["depth"] for name, each in found["models"].items()} == {
        "first": 1,
        "second": 1,
    }
    rows = found["models"]["second"]["rows"]
    assert {(row["weights"], row["level"]) for row in rows} == {
        (w, a) for w in ("trained", "random") for a in range(3)
    }
    for name in ("against_level", "against_noise", "against_depth", "verdicts"):
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()
    with (tmp_path / "tables" / "verdicts.csv").open() as file:
        kinds = {row["comparison"] for row in csv.DictReader(file)}
    assert kinds == {"level with level", "bottleneck with bottleneck", "level 0 with level 0"}
    for words in (
        "Premise: x -> z is a contraction",
        "At the bottleneck, first -> second",
        "At the pixels, the same x_t",
    ):
        assert words in out
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert len(parts) == 2 * 2 * 3
    finished(run(given, tmp_path))
    assert {path: path.stat().st_mtime_ns for path in parts} == parts, "nothing is done twice"
    assert json.loads((tmp_path / "probe.json").read_text()) == found


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--levels=0,9"], "level 9 does not exist; this U-Net has 0, 1, 2: 0 is the pixels"),
        (["--model=configs"], "configs is no model: it has no config.json"),
        (["--reference=docs"], "docs holds 0 images"),
        (["--readings=norms"], "--readings is norms; choose among hessian, maps"),
        (["--noise=high"], "--noise is high; numbers from 0 to 1 are expected"),
        (
            ["--c=1e-9", "--readings=memory"],
            "the memory at level 0 with the scaled tau (--c): tau is",
        ),
        (["--noise="], "--noise is empty"),
        (["--classes=6,9"], "--classes is for a dataset by name"),
        (["--reference=digits", "--readings=hessian"], None),
    ],
)
def test_bad_input_gets_a_sentence(given, tmp_path, more, sentence):
    process = run(given, tmp_path / "out", *more)
    out, err = process.communicate(timeout=200)
    if sentence is None:  # a dataset by name is prepared at the model's size
        assert process.returncode == 0, err
        return
    assert process.returncode == 1, out
    assert len(err.splitlines()) == 1
    assert sentence in err


def test_images_of_another_size(given, tmp_path):
    np.savez(tmp_path / "large.npz", np.zeros((4, 16, 16, 1), np.uint8))
    out, err = run(given, tmp_path / "out", f"--reference={tmp_path / 'large.npz'}").communicate(
        timeout=200
    )
    assert "first takes images of 8 x 8 x 1 and the points are of 16 x 16 x 1" in err
    assert len(err.splitlines()) == 1, out
    assert not (tmp_path / "out").exists()
