from jaxdiff.study import stages


def test_a_stage_runs_once_for_its_inputs(tmp_path):
    from etils import epath

    folder, runs = epath.Path(tmp_path), []

    def make():
        runs.append(1)
        (folder / "out.txt").write_text(str(len(runs)))

    first = stages.stage(folder, "make", {"a": 1}, ("out.txt",), make)
    assert stages.stage(folder, "make", {"a": 1}, ("out.txt",), make) == first
    assert len(runs) == 1
    stages.stage(folder, "make", {"a": 2}, ("out.txt",), make)
    (folder / "out.txt").write_text("changed by hand")
    stages.stage(folder, "make", {"a": 2}, ("out.txt",), make)
    (folder / "out.txt").unlink()
    stages.stage(folder, "make", {"a": 2}, ("out.txt",), make)
    assert len(runs) == 4
