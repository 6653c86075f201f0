"""The image: its file is linted, and its first layer copies what the installation reads."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

DOCKERFILE = Path("launch/Dockerfile")
HADOLINT = Path(sys.executable).parent / "hadolint"


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is installed by the extra dev")
def test_the_linter_finds_nothing(tmp_path):
    assert lint(DOCKERFILE) == ""
    faulty = tmp_path / "Dockerfile"
    faulty.write_text("FROM python\n")
    assert "DL3006" in lint(faulty)


def lint(path):
    return subprocess.run([HADOLINT, path], capture_output=True, text=True).stdout


def test_what_the_installation_reads_is_copied_before_it():
    before_installation = DOCKERFILE.read_text().split("RUN pip install")[0]
    copies = [line.split()[1:-1] for line in before_installation.splitlines() if "COPY" in line]
    copied = {source for sources in copies for source in sources}
    pyproject = tomllib.loads(Path("pyproject.toml").read_text())
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    project = pyproject["project"]
    read = {"pyproject.toml", "jaxdiff/__init__.py", project["readme"]}
    assert copied == read | set(project["license-files"]) | set(included)
    assert all(Path(source).is_file() for source in copied)


def test_its_extras_exist():
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = DOCKERFILE.read_text()
    named = text.split(".[${EXTRA},")[1].split("]")[0].split(",")
    assert set(named) | {"cuda", "tpu"} <= set(extras)
