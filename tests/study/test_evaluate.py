import dataclasses

import numpy as np
import pytest
from etils import epath

from jaxdiff import files, results
from jaxdiff.study.evaluate import Options, Reference, evaluate

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 1)).astype(np.uint8)
REFERENCE = Reference("reference", IMAGES[12:])
CHEAP = Options(lpips="none", spaces=("pixels",), k=(1, 3))


def run(workdir, sets=None, reference=REFERENCE, **changes):
    options = dataclasses.replace(CHEAP, **changes)
    evaluate(
        sets or {"a": IMAGES[:12], "b": IMAGES[12:24]},
        reference,
        options,
        epath.Path(workdir),
        lambda *_: None,
    )


def test_neighbors_find_the_copies_and_held_out_images_stand_beside(tmp_path):
    run(tmp_path, reference=dataclasses.replace(REFERENCE, held_out=IMAGES[:6]))
    first = {
        (cell.name, e.labels["images"]): e.value
        for cell in results.read_cells(tmp_path)
        for e in cell.estimates("neighbors", "kth", k=1)
    }
    assert first["b", "samples"] == 0
    assert first["a", "samples"] > 0.1
    assert first["a", "held_out"] == pytest.approx(first["b", "held_out"])
    assert files.read_json(tmp_path / "shared/comparisons.json")["flips"] == []


def test_sets_of_the_same_noise_are_compared(tmp_path):
    run(tmp_path, same_noise=True)
    compared = files.read_json(tmp_path / "shared/comparisons.json")
    assert compared["flips"] == [], "without labels nothing can flip"
    assert compared["similarity"] == [], "likeness needs LPIPS"
    assert [len(cell.common) for cell in results.read_cells(tmp_path)] == [12, 12]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": (0, 1)}, "the class 1 was asked for; those of reference are not known"),
        (
            {"reference": dataclasses.replace(REFERENCE, classes=("no", "yes")), "classes": (0, 2)},
            r"the class 2 was asked for; those of reference are 0 \(no\), 1 \(yes\)",
        ),
        ({"k": (1, 99)}, "k is 99 and reference holds only 18 images"),
        ({"lpips": "alex"}, "LPIPS with alex needs 32 px or more, not 16"),
        ({"spaces": ("clip",)}, "feature space 'clip' is not known; choose one of pixels"),
        ({"spaces": ("inception",)}, "needs FID's weights file"),
        (
            {"sets": {"a": IMAGES[:9], "b": IMAGES[:12]}, "same_noise": True},
            "their sizes are {'a': 9, 'b': 12}",
        ),
        (
            {"sets": {"a": IMAGES[:, :8]}},
            r"a are of 8 x 16 x 1 and reference of 16 x 16 x 1 .*; give --size",
        ),
        ({"sets": {"a": IMAGES.repeat(3, -1)}}, "convert one of them"),
    ],
)
def test_bad_options_get_a_sentence_and_write_nothing(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_another_study_in_the_workdir_is_left_alone(tmp_path):
    files.write_json(tmp_path / "study.json", {"name": "mine", "diffusion": {}})
    with pytest.raises(ValueError, match="was made with other settings"):
        run(tmp_path)
    assert files.read_json(tmp_path / "study.json") == {"name": "mine", "diffusion": {}}
