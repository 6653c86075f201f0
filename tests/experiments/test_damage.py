"""A byte flipped in each file of a finished run: the sweep and the report notice all of them."""

import shutil

import pytest
from etils import epath

from jaxdiff import files, report, results
from jaxdiff.cells.data import DataPaths
from jaxdiff.measures.registry import load_measures
from jaxdiff.progress import no_progress
from jaxdiff.settings import to_json
from jaxdiff.stage import claim_folder
from jaxdiff.study import grid, pairwise
from jaxdiff.study.config import fixed_settings
from jaxdiff.study.planned import planned_settings
from jaxdiff.study.stages import run_cell
from tests.experiments.tiny_study import get_config

pytestmark = pytest.mark.slow

# Checkpoints and prepared images have manifests of their own; the others say nothing of results.
NOT_RESULTS = ("checkpoints/", "shared/data/", ".lock", "report.html", "figures/", "tables/")


def sweep(workdir: epath.Path) -> None:
    """What experiments.sweep does, in this process."""
    config = get_config()
    config.train.steps = 4
    config.train.checkpoint_every = 4
    config.train.log_every = 1
    config.sample.num = 4
    config.sample.common = 4
    config.classifier.steps = 2
    config.measures.k = (1,)
    config.measures.lpips = "none"
    for name in ("queries", "checkpoints", "probe"):
        config.measures[name] = 0
    (cell,) = grid.expand(config)
    study = workdir / "study.json"
    claim_folder(
        study,
        planned_settings(to_json(config.to_dict()), [cell], study),
        fixed=fixed_settings,
    )
    run_cell(cell, workdir, DataPaths("", ""), no_progress)
    pairwise.run_comparisons(results.read_cells(workdir), workdir, cell.measures)
    report.write(workdir)


def read_files(workdir: epath.Path) -> dict[str, bytes]:
    """The files that results depend on, by path."""
    paths = {path.relative_to(workdir).as_posix(): path for path in files.walk(workdir)}
    return {
        name: path.read_bytes()
        for name, path in paths.items()
        if not any(part in name for part in NOT_RESULTS)
    }


def change_byte(path: epath.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(bytes(data))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    load_measures()
    sweep(workdir)
    return workdir


def test_every_changed_file_is_named_or_remade(finished, tmp_path):
    """By the report, which remakes nothing; then by the sweep, from the same damage."""
    before = read_files(finished)
    assert len(before) > 25
    unnoticed = []
    for name in sorted(before):
        workdir = epath.Path(tmp_path / name.replace("/", "-"))
        shutil.copytree(finished, workdir)
        change_byte(workdir / name)
        reported = error_of(lambda workdir=workdir: results.check_study(workdir))
        # Of a record the inputs alone may have changed, which a sweep makes again.
        if not reported and "stages/" not in name:
            unnoticed.append(f"report: {name}")
        refused = error_of(lambda workdir=workdir: sweep(workdir))
        if not refused:
            after = read_files(workdir)
            unnoticed += [f"sweep: {name} ({n})" for n in before if before[n] != after[n]]
        assert all(str(workdir) in sentence for sentence in (reported, refused) if sentence), name
        shutil.rmtree(workdir)
    assert not unnoticed


def error_of(run) -> str:
    """The sentence that a call ends in; empty where it succeeds."""
    try:
        run()
    except ValueError as error:
        return str(error)
    return ""
