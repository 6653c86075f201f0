"""experiments.evaluate on what people bring: folders, .npz files, and broken ones."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.experiments.test_sweep import command, finished


@pytest.fixture
def brought(tmp_path):
    """A folder of PNGs and an .npz of the same size, and a reference."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 16, 16, 1)).astype(np.uint8)
    (tmp_path / "pngs").mkdir()
    for i in range(12):
        Image.fromarray(images[i, :, :, 0]).save(tmp_path / "pngs" / f"{i:02d}.png")
    np.savez(tmp_path / "copies.npz", arr_0=images[12:24])
    np.savez(tmp_path / "reference.npz", arr_0=images[12:])
    return tmp_path


def test_sets_against_a_reference(brought):
    finished(command("evaluate", "--samples", brought / "pngs", "--samples", brought / "copies.npz", "--k=1,3",
                     "--spaces=pixels", "--reference", brought / "reference.npz", "--workdir", brought / "out"))  # fmt: skip
    found = {
        name: json.loads((brought / "out/cells" / name / "result.json").read_text())
        for name in ("pngs", "copies")
    }
    nearest = {name: r["neighbors"][0] for name, r in found.items()}
    assert nearest["copies"]["value"] == 0
    assert nearest["pngs"]["value"] > 0.1
    assert {e["name"] for e in found["pngs"]["lpips"]} == {"all_pairs", "training_data"}
    page = (brought / "out/report.html").read_text()
    assert "2 sets of images of 16 x 16 px against" in page
    assert "Training loss" not in page


def test_a_bad_flag_gets_a_sentence(brought):
    process = command("evaluate", "--samples", brought / "pngs", "--reference", brought / "reference.npz", "--k=0",
                      "--workdir", brought / "out")  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err == "error: --k is 0; at least one number of neighbors, from 1 on, is expected\n"
    assert not (brought / "out").exists(), "nothing is half-written"


def test_a_broken_image_is_named(brought):
    (brought / "pngs" / "05.png").write_bytes(b"\x89PNG\r\n")
    process = command(
        "evaluate",
        "--samples",
        brought / "pngs",
        "--reference=digits",
        "--workdir",
        brought / "out",
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "05.png cannot be read as an image" in err
    assert not (brought / "out").exists()
