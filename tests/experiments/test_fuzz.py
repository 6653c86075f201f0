"""Hostile inputs in bulk: each is refused in one sentence, or taken for what it says."""

import pytest

from tests.experiments.fuzz import boundary, config_inputs

pytestmark = pytest.mark.slow


def check(area: str, inputs: list[boundary.Input], minimum: int) -> None:
    """Give every input to its command; the count is shown by pytest -rP."""
    print(f"{area}: {len(inputs)} inputs")
    assert len(inputs) >= minimum
    faults = boundary.find_faults(inputs)
    assert not faults, "\n".join([f"{len(faults)} of {len(inputs)}:", *faults])


def test_config_values(tmp_path, monkeypatch):
    sweep = boundary.Command("sweep")
    config_inputs.patch(sweep, monkeypatch)
    check("config values", list(config_inputs.build(sweep, tmp_path)), 700)
