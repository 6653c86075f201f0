"""Studies of other data than the embedded digits, and experiments.dataset."""

import json

import pytest

from tests.datasets import published
from tests.experiments.test_sweep import SMALL, command, finished

TWO_STEPS = (
    "--config.width=0.25", "--config.train.steps=2", "--config.train.batch=8", "--config.train.checkpoint_every=2",
    "--config.sample.num=8", "--config.sample.common=0", "--config.sample.steps=4", "--config.sample.batch=8",
    "--config.classifier.steps=5", "--config.measures.k=(1,2)", "--config.measures.spaces=('pixels',)",
    "--config.measures.queries=4", "--config.measures.checkpoints=0", "--config.measures.probe=1",
)  # fmt: skip


@pytest.mark.slow
def test_the_papers_celeba_on_a_small_one(tmp_path):
    has = published.celeba(tmp_path / "celeba", 200)
    data = (f"--config.data.dir={tmp_path / 'celeba'}", "--config.data.n=(20,)", "--config.data.size=32",
            "--config.data.proportions=((0.4,0.2,0.3,0.1),)")  # fmt: skip
    study = (
        "--config",
        "configs/paper_celeba.py",
        "--cells",
        "2-4*",
        "--workdir",
        tmp_path / "run",
        *TWO_STEPS,
        *data,
    )
    out = finished(command("sweep", *study))
    (cell,) = (tmp_path / "run" / "cells").iterdir()
    assert f"{cell.name}: gate" in out
    result = json.loads((cell / "result.json").read_text())
    assert result["cell"]["proportions"] == [0.6, 0.4]
    assert result["cell"]["data"] == "200 faces of CelebA, the middle square at 32 px"
    confusion = json.loads((tmp_path / "run" / "shared" / "confusion.json").read_text())
    tested = [sum(row) for row in confusion["matrix"]["convolutional"]]
    male = has[150::2, 2]
    assert tested == [(~male).sum(), male.sum(), 0]
    assert "200 faces of CelebA" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_coloured_digits_by_one_override(tmp_path):
    few = [flag for flag in TWO_STEPS if "width" not in flag]
    source = "--config.data.source=coloured_digits"
    finished(
        command(
            "sweep", *SMALL, "--workdir", tmp_path, source, *few, "--config.measures.lpips=none"
        )
    )
    (cell,) = (tmp_path / "cells").iterdir()
    result = json.loads((cell / "result.json").read_text())
    assert result["cell"]["data"] == "5,000 embedded MNIST digits, each in red and in green ink"


@pytest.mark.slow
def test_images_are_held_against_a_dataset_by_name(tmp_path):
    published.celeba(tmp_path / "celeba", 40)
    samples = tmp_path / "celeba" / "img_align_celeba"
    out = finished(command(
        "evaluate", "--samples", samples, "--size=16", "--reference=celeba", "--data_dir", tmp_path / "celeba",
        "--attribute=Male", "--spaces=pixels", "--k=1", "--workdir", tmp_path / "out",
    ))  # fmt: skip
    assert "pixels euclidean to neighbor 1, samples: 0.0" in out
    assert "held-out: " in out


def test_a_dataset_is_counted_and_drawn(tmp_path):
    published.celeba(tmp_path / "celeba", 40)
    flags = (
        "--name",
        "celeba",
        "--data_dir",
        tmp_path / "celeba",
        "--cache",
        tmp_path / "cache",
        "--size",
        16,
    )
    groups = (
        "--attribute",
        "Male",
        "--group",
        "Blond_Hair",
        "--show",
        "--out",
        tmp_path / "grid.png",
    )
    out = finished(command("dataset", *flags, *groups))
    assert "40 faces of CelebA" in out
    assert "58.32" in out
    assert "0.86" in out
    assert (tmp_path / "grid.png").read_bytes()[1:4] == b"PNG"
    process = command("dataset", *flags, "--attribute", "Beard", "--show")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        "attribute 'Beard' is not known; the dataset's are 5_o_Clock_Shadow, Blond_Hair, Male, Smiling"
        in err
    )
