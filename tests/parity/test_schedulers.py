"""The noise levels of schedulers that sample in other ways than ours, against diffusers."""

import json

import numpy as np
import pytest

from jaxdiff import diffusers_scheduler

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),  # diffusers' own
]
diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize("name", list(diffusers_scheduler.OTHER_SCHEDULERS))
@pytest.mark.parametrize(
    "fields", [{}, {"beta_schedule": "scaled_linear", "beta_end": 0.015}], ids=["default", "scaled"]
)
def test_the_noise_levels_are_those_of_diffusers(name, fields, tmp_path):
    try:
        theirs = getattr(diffusers, name)(**fields)
    except ImportError as error:
        pytest.skip(str(error))
    content = {"_class_name": name} | fields
    (tmp_path / "scheduler_config.json").write_text(json.dumps(content))
    schedule = diffusers_scheduler.build_schedule(diffusers_scheduler.read(tmp_path))
    np.testing.assert_allclose(schedule.alpha_bar, theirs.alphas_cumprod, rtol=1e-4)
