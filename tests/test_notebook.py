"""The notebook's functions say what they need; examples/notebook.py runs them all."""

import sys

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import notebook
from jaxdiff.datasets.images import to_float


def test_a_row_that_table_a_lacks_is_named():
    with pytest.raises(ValueError, match=r"row must be one of 2, 2-large, .*, got '7'"):
        jd.build_unet("7")


@pytest.mark.parametrize("is_screen", [True, False])
def test_progress_is_rewritten_on_a_screen_and_brief_in_a_file(is_screen, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_screen)
    # Tests of notebooks in the same process have imported it.
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for done in range(4):
        notebook._show("train", done, 3, "loss 0.1")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    if is_screen:
        assert out.count("\r") == 4
    else:
        assert out == "train: 3/3 loss 0.1\n"


IMAGES = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)


@pytest.mark.parametrize("convert", [np.asarray, to_float, list])
def test_images_of_any_kind_of_array_are_the_same(convert):
    np.testing.assert_array_equal(notebook._as_uint8(convert(IMAGES)), IMAGES)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (IMAGES.astype(np.int64), "got int64 with values up to 31"),
        (IMAGES.astype(np.float32), "got float32 with values up to 31"),
        (IMAGES[..., 0], r"got an array \[2, 4, 4\]; add the axes"),
    ],
)
def test_images_that_would_become_white_are_refused(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        notebook._as_uint8(images)


def test_a_model_is_trained_on_images_of_its_own_size():
    model = jd.Model(jd.build_unet("2", width=0.25, size=16), jd.Schedule.linear(10), "v")
    sentence = r"the model's size, 16 x 16 x 1 .*, got 32 x 32 x 1; load or resize"
    with pytest.raises(ValueError, match=sentence):
        jd.fit(model, np.zeros((8, 32, 32, 1), np.uint8), steps=1)


@pytest.mark.slow
def test_what_is_trained_further_forgets_its_first_data(minimal_unet):
    config = {"proportions": [0.8, 0.2], "seed": 0, "data": {"size": 8, "source": "digits"}}
    model = jd.Model(minimal_unet, jd.Schedule.linear(10), "v", {**config, "sample": {"steps": 5}})
    fitted = jd.fit(model, np.zeros((8, 8, 8, 1), np.uint8), steps=1, batch=8, progress=print)
    assert fitted.config == {"sample": {"steps": 5}, "data": {"size": 8}}
    assert fitted.shape == (8, 8, 1)
