"""The notebook's functions say what they need; examples/notebook.py runs them all."""

import pytest

import jaxdiff as jd


def test_a_row_that_table_a_lacks_is_named():
    with pytest.raises(ValueError, match=r"row must be one of 2, 2-large, .*, got '7'"):
        jd.build_unet("7")
