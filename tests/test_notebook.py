"""The notebook's functions say what they need; examples/notebook.py runs them all."""

import sys

import pytest

import jaxdiff as jd
from jaxdiff import notebook


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
