"""What the README and the docs name exists: commands, their flags, configs, files, Python."""

import re
import shlex
from pathlib import Path

import pytest

from jaxdiff.bypass.config import BypassSettings
from jaxdiff.setting_fields import keys
from jaxdiff.settings import StudySettings
from tests.experiments.commands import run_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_CONFIG = "mine.py"  # stands for a reader's own file


def read_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def read_commands(page):
    """Module and arguments of every `python -m` of a page's blocks and tables."""
    lines = []
    for block in read_blocks(page, "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(python -m [^`]+)`", page.read_text())
    commands = []
    for line in lines:
        match = re.search(r"-m ((?:experiments|benchmarks)\S*) ?(.*)", line)
        if match:
            arguments = shlex.split(match[2], comments=True)
            commands.append((match[1], arguments))
    return commands


COMMANDS = [
    pytest.param(module, arguments, id=f"{page.stem}-{module}-{i}")
    for page in PAGES
    for i, (module, arguments) in enumerate(read_commands(page))
]


def defined_flags(module):
    """Flags that a command defines itself or by the functions that commands share."""
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
    shared = (ROOT / "experiments" / "_cli.py").read_text()
    for name in re.findall(r"_cli\.(define_\w+)\(", source):
        body = re.search(rf"^def {name}\(.*?(?=^def |\Z)", shared, flags=re.M | re.S)
        source += body[0]
    names = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source)
    of_configs = {"config", "help_config"} if "define_config" in source else set()
    return {*names, "help"} | of_configs


def find_module(module):
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_commands_and_their_flags_exist(module, arguments):
    assert find_module(module)
    if not module.startswith("experiments."):
        return
    flags = [argument[2:].partition("=") for argument in arguments if argument.startswith("--")]
    names = {name.partition(".")[0].removeprefix("no") for name, _, _ in flags}
    assert names <= {name.removeprefix("no") for name in defined_flags(module)}
    settings = BypassSettings if module == "experiments.bypass" else StudySettings
    known = {f"config.{key.name}" for key in keys(settings)}
    assert {name for name, _, _ in flags if name.startswith("config.")} <= known
    for i, argument in enumerate(arguments):
        if argument == "--config":
            config = arguments[i + 1].partition(":")[0]
            assert config == OWN_CONFIG or (ROOT / config).exists(), config


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_the_python_of_the_readme_is_an_example_that_is_run():
    (block,) = read_blocks(ROOT / "README.md", "python")
    example = (ROOT / "examples" / "notebook.py").read_text()
    for line in block.strip().splitlines():
        # The example takes the number of steps as an argument.
        assert line.replace("steps=1000", "steps=steps") in example.splitlines(), line


def test_the_readme_is_short():
    words = (ROOT / "README.md").read_text().split()
    assert len(words) <= 1200


def planned_sweeps():
    """Sweeps over bundled data, each once."""
    sweeps = set()
    for page in PAGES:
        for module, arguments in read_commands(page):
            needs = [a for a in arguments if "FOLDER" in a or "folder:" in a or "celeba" in a]
            needs += [a for a in arguments if a in (OWN_CONFIG, "--distributed")]
            is_study = "configs/quickstart.py" in arguments  # the others need data
            if module == "experiments.sweep" and is_study and not needs:
                sweeps.add(tuple(a for a in arguments if a != "--dry_run"))
    return sorted(sweeps)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", planned_sweeps(), ids=" ".join)
def test_the_sweeps_of_the_docs_can_be_planned(tmp_path, arguments):
    plan = run_command("sweep", *arguments, "--workdir", tmp_path, "--dry_run")
    assert "cells" in plan
    assert "no claim can have a verdict: the classifier is tested on " in plan
