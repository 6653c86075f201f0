"""--help of every command: one screen with three examples, and every flag."""

import re

import pytest

from jaxdiff.bypass.config import BypassSettings
from jaxdiff.setting_fields import keys
from jaxdiff.settings import StudySettings
from tests.experiments.commands import fail_command, run_command

COMMANDS = (
    "bypass",
    "convert",
    "dataset",
    "evaluate",
    "plan",
    "probe",
    "report",
    "sample",
    "scaling",
    "sweep",
    "theorems",
)
SCREEN = 45  # lines


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen_with_examples(command):
    text = run_command(command, "--help")
    lines = text.splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 100
    assert text.count(f"python -m experiments.{command} ") == 3
    flags = re.findall(r"^  --(?:\[no\])?(\w+)", text, flags=re.MULTILINE)
    assert len(set(flags)) == len(flags)
    used = set(re.findall(r" --(\w+)", text.partition("\n  --")[0]))
    assert used - {"config"} <= set(flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "settings"), [("sweep", StudySettings), ("bypass", BypassSettings)]
)
def test_every_key_of_a_config_is_listed(command, settings):
    text = run_command(command, "--help_config")
    assert all(f"--config.{key.name}=" in text for key in keys(settings))


def test_a_command_without_a_config_has_no_keys():
    assert "help_config" in fail_command("report", "--help_config")
