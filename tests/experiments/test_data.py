"""Studies of other data than the embedded digits, and experiments.dataset."""

import json

import pytest

from tests.datasets import published
from tests.datasets.test_mnist import write_idx, write_pickle
from tests.experiments.commands import (
    SMALL,
    fail_command,
    run_command,
    run_module,
)

pytestmark = pytest.mark.slow

TWO_STEPS = (
    "--config.train.steps=2",
    "--config.train.batch=8",
    "--config.train.checkpoint_every=2",
    "--config.sample.num=8",
    "--config.sample.common=0",
    "--config.sample.steps=4",
    "--config.sample.batch=8",
    "--config.classifier.steps=5",
    "--config.measures.k=(1,2)",
    "--config.measures.spaces=('pixels',)",
    "--config.measures.lpips=none",
    "--config.measures.queries=0",
    "--config.measures.checkpoints=0",
    "--config.measures.probe=0",
)


CELEBA_STUDY = """
from configs import paper_celeba
from tests.experiments import tiny_study

def get_config():
    config = paper_celeba.get_config()
    config.models = tiny_study.get_config().models
    return config
"""


def test_the_papers_celeba_on_a_small_one(tmp_path):
    """With a smaller U-Net, which compiles in less time."""
    attributes = published.celeba(tmp_path / "celeba", 200)
    (tmp_path / "celeba_study.py").write_text(CELEBA_STUDY)
    output = run_command(
        "sweep",
        f"--config={tmp_path / 'celeba_study.py'}",
        "--config.seeds=(0,)",
        f"--workdir={tmp_path / 'run'}",
        "--config.width=0.25",
        *TWO_STEPS,
        f"--config.data.dir={tmp_path / 'celeba'}",
        "--config.data.n=(20,)",
        "--config.data.size=32",
        "--config.data.proportions=((0.4,0.2,0.3,0.1),)",
    )
    (cell,) = (tmp_path / "run" / "cells").iterdir()
    assert f"{cell.name}: gate" in output
    result = json.loads((cell / "result.json").read_text())
    assert result["cell"]["proportions"] == [0.6, 0.4]
    assert result["cell"]["data"] == "200 faces of CelebA, the middle square at 32 px"
    confusion = json.loads((tmp_path / "run" / "shared" / "confusion.json").read_text())
    tested = [sum(row) for row in confusion["matrix"]["convolutional"]]
    # the classifier is tested on every second image of the last quarter, the published test part
    male = attributes[150::2, published.MALE]
    assert tested == [(~male).sum(), male.sum(), 0]
    assert "200 faces of CelebA" in (tmp_path / "run" / "report.html").read_text()


def test_colored_digits_by_one_override(tmp_path):
    source = "--config.data.source=colored_digits"
    run_command("sweep", *SMALL, "--workdir", tmp_path, source, *TWO_STEPS)
    (cell,) = (tmp_path / "cells").iterdir()
    result = json.loads((cell / "result.json").read_text())
    assert result["cell"]["data"] == "5,000 embedded MNIST digits, each in red and in green ink"
    assert (tmp_path / "shared" / "data" / "colored_digits").is_dir()


def test_images_are_compared_with_a_dataset_by_name(tmp_path):
    published.celeba(tmp_path / "celeba", 40)
    output = run_command(
        "evaluate",
        f"--samples={tmp_path / 'celeba' / 'img_align_celeba'}",
        "--size=16",
        "--reference=celeba",
        f"--data_dir={tmp_path / 'celeba'}",
        "--attribute=Male",
        "--spaces=pixels",
        "--k=1",
        f"--workdir={tmp_path / 'out'}",
    )
    assert "pixels euclidean to neighbor 1, samples: 0.0" in output
    assert "held-out: " in output


def test_a_dataset_of_ones_own_is_counted_and_retrieved_from(tmp_path):
    plugin = "--plugins=examples.new_dataset"
    output = run_command(
        "dataset",
        "--name=shapes",
        "--show",
        plugin,
        f"--cache={tmp_path / 'cache'}",
        f"--out={tmp_path / 'grid.png'}",
    )
    assert "square" in output
    sentence = fail_command(
        "theorems", "--source=shapes", "--n=9000", plugin, f"--workdir={tmp_path / 'run'}"
    )
    assert "images of class" in sentence


def test_a_dataset_is_counted_and_drawn(tmp_path):
    published.celeba(tmp_path / "celeba", 40)
    flags = (
        "--name=celeba",
        f"--data_dir={tmp_path / 'celeba'}",
        f"--cache={tmp_path / 'cache'}",
        "--size=16",
        "--show",
    )
    groups = ("--attribute=Male", "--group=Blond_Hair", f"--out={tmp_path / 'grid.png'}")
    output = run_command("dataset", *flags, *groups)
    assert "40 faces of CelebA" in output
    assert "58.32" in output
    assert "0.86" in output
    assert (tmp_path / "grid.png").read_bytes()[1:4] == b"PNG"
    names = "5_o_Clock_Shadow, Blond_Hair, Male, Smiling"
    sentence = fail_command("dataset", *flags, "--attribute=Beard")
    assert f"attribute 'Beard' is not known; choose one of {names}" in sentence


@pytest.mark.parametrize(
    ("write", "name"), [(write_idx, "idx files"), (write_pickle, "mnist.pkl.gz")]
)
def test_digits_in_a_bucket_are_found_under_any_published_name(write, name, tmp_path):
    write(tmp_path / "mnist")
    arguments = ("--name=digits", "--data_dir=gs://mnist", f"--cache={tmp_path}", "--size=28")
    output = run_module("tests.experiments.bucket", tmp_path, "dataset", *arguments)
    assert name in output
