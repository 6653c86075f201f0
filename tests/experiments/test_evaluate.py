"""experiments.evaluate on images that people bring: folders, .npz files, and broken ones."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.experiments.commands import fail_command, run_command

pytestmark = pytest.mark.slow


@pytest.fixture
def images_dir(tmp_path):
    """A folder of PNGs, an .npz of the same size, and a reference."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 16, 16, 1)).astype(np.uint8)
    (tmp_path / "pngs").mkdir()
    for i in range(12):
        Image.fromarray(images[i, :, :, 0]).save(tmp_path / "pngs" / f"{i:02d}.png")
    np.savez(tmp_path / "copies.npz", arr_0=images[12:24])
    np.savez(tmp_path / "reference.npz", arr_0=images[12:])
    return tmp_path


def test_sets_against_a_reference(images_dir):
    workdir = images_dir / "out"
    run_command(
        "evaluate",
        "--samples",
        images_dir / "pngs",
        "--samples",
        images_dir / "copies.npz",
        "--reference",
        images_dir / "reference.npz",
        "--k=1,3",
        "--spaces=pixels",
        "--workdir",
        workdir,
    )
    results = {
        name: json.loads((workdir / "sets" / name / "result.json").read_text())
        for name in ("pngs", "copies")
    }
    assert results["copies"]["neighbors"][0]["value"] == 0
    assert results["pngs"]["neighbors"][0]["value"] > 0.1
    names = {estimate["name"] for estimate in results["pngs"]["lpips"]}
    assert names == {"all_pairs", "training_data"}
    page = (workdir / "report.html").read_text()
    assert "2 sets of images of 16 x 16 px against" in page
    assert "Training loss" not in page


def test_a_bad_flag_gets_a_sentence(images_dir):
    workdir = images_dir / "out"
    flags = ("--samples", images_dir / "pngs", "--reference", images_dir / "reference.npz")
    error = fail_command("evaluate", *flags, "--k=0", "--workdir", workdir)
    assert error == "error: --k is 0; at least one number of neighbors, from 1 on, is needed"
    assert not workdir.exists(), "nothing is half-written"


def test_a_broken_image_is_named(images_dir):
    (images_dir / "pngs" / "05.png").write_bytes(b"\x89PNG\r\n")
    workdir = images_dir / "out"
    flags = ("--samples", images_dir / "pngs", "--reference=digits")
    error = fail_command("evaluate", *flags, "--workdir", workdir)
    assert "05.png cannot be read as an image" in error
    assert not workdir.exists()
