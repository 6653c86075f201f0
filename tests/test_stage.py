"""A stage runs once for its inputs, and again when it is told to."""

import pytest
from etils import epath

from jaxdiff import files, parallel, stage
from jaxdiff.records import check_records, remove_record
from jaxdiff.stage import Redo, reserve_folder, run_stage
from jaxdiff.study.lock import lock


class Counter:
    """Writes out.txt and counts how often it did."""

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self.runs = 0

    def make(self) -> None:
        self.runs += 1
        (self.folder / "out.txt").write_text(str(self.runs))

    def run(self, inputs: object, redo: Redo | None = None) -> dict[str, str]:
        options = {} if redo is None else {"redo": redo}
        return run_stage(self.folder, "make", inputs, ("out.txt",), self.make, **options)


@pytest.fixture
def counter(tmp_path) -> Counter:
    return Counter(epath.Path(tmp_path))


def test_a_stage_runs_once_for_its_inputs(counter):
    first = counter.run({"a": 1})
    assert counter.run({"a": 1}) == first
    assert counter.runs == 1
    counter.run({"a": 2})
    assert counter.runs == 2


def test_a_stage_runs_again_where_its_output_was_changed_or_lost(counter):
    counter.run({})
    (counter.folder / "out.txt").write_text("changed by hand")
    counter.run({})
    (counter.folder / "out.txt").unlink()
    counter.run({})
    assert counter.runs == 3


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        (("make",), "make", True),
        (("ma*",), "make", True),
        (("other",), "make", False),
        (("all",), "make", True),
        (("all",), "train", False),
        (("train",), "train", True),
    ],
)
def test_redo_matches_names_and_globs(patterns, name, expected):
    assert Redo(patterns).matches(name) == expected


def test_redo_makes_a_stage_again(counter):
    counter.run({})
    counter.run({}, Redo(["make"]))
    counter.run({}, Redo(["other"]))
    assert counter.runs == 2


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"inputs": 1}'])
def test_a_stage_whose_record_is_damaged_runs_again(counter, text):
    first = counter.run({})
    files.write(counter.folder / "stages" / "make.json", text)
    assert counter.run({}).keys() == first.keys()
    assert counter.runs == 2


def write_and_check(path, value):
    """Write a file as usual, and look at it as another process would."""
    files.write(path, value)
    check_records(path.parent)


def test_no_output_counts_as_changed_while_its_stage_is_at_work(tmp_path):
    """A stage may need hours between its first output and its record."""
    folder = epath.Path(tmp_path)
    for inputs in ("old", "new"):

        def make(text=inputs):
            write_and_check(folder / "first.txt", text)
            write_and_check(folder / "second.txt", text)

        with lock(folder) as owner:
            assert not owner
            run_stage(folder, "make", inputs, ("first.txt", "second.txt"), make)
    assert (folder / "second.txt").read_text() == "new"
    (folder / "second.txt").write_text("by hand")
    with pytest.raises(ValueError, match=r"second\.txt was changed after the run wrote it"):
        check_records(folder)


def test_settings_that_grow_do_not_count_as_changed_meanwhile(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "study.json"
    reserve_folder(path, {"planned": [0]}, fixed=lambda settings: {})
    write_json = files.write_json

    def write_json_and_check(path, value):
        write_json(path, value)
        check_records(epath.Path(tmp_path))

    monkeypatch.setattr(files, "write_json", write_json_and_check)
    reserve_folder(path, {"planned": [0, 1]}, fixed=lambda settings: {})
    assert files.read_json(path) == {"planned": [0, 1]}


@pytest.mark.parametrize("record", ["none", "another"])
def test_a_file_that_is_written_anew_while_it_is_read_is_not_named(counter, monkeypatch, record):
    counter.run({})
    sha256 = files.sha256

    def write_and_hash(path):
        """Another process begins, or ends, between the record and the file."""
        monkeypatch.setattr(files, "sha256", sha256)
        if record == "none":
            remove_record(counter.folder, "make")
            counter.make()
        else:
            counter.run({"other": 1})
        return sha256(path)

    monkeypatch.setattr(files, "sha256", write_and_hash)
    check_records(counter.folder)
    assert counter.runs == 2


def test_settings_that_were_changed_by_hand_are_refused(tmp_path):
    """A plan that was edited later must not become the plan."""
    path = epath.Path(tmp_path) / "study.json"
    reserve_folder(path, {"planned": {"seeds": [0, 1]}}, fixed=lambda settings: {})
    files.write_json(path, {"planned": {"seeds": [0]}})
    with pytest.raises(ValueError, match=r"study\.json was changed after the run wrote it"):
        reserve_folder(path, {"planned": {"seeds": [0]}}, fixed=lambda settings: {})


def test_redo_of_nothing_is_refused():
    Redo(["all", "l*"]).check_all_matched(["lpips", "share"])
    with pytest.raises(ValueError, match="--redo lpisp matches no stage; the stages are lpips"):
        Redo(["lpisp"]).check_all_matched(["share", "lpips"])


def test_a_folder_is_claimed_for_its_settings(tmp_path):
    path = epath.Path(tmp_path) / "run" / "config.json"
    reserve_folder(path, {"train": {"batch": 8}, "free": 1})
    reserve_folder(path, {"train": {"batch": 8}, "free": 1})
    with pytest.raises(ValueError, match=r"config.train.batch is 8 there and 4 here"):
        reserve_folder(path, {"train": {"batch": 4}, "free": 1})
    reserve_folder(path, {"train": {"batch": 8}, "free": 2}, fixed=lambda s: {"t": s["train"]})
    assert files.read_json(path)["free"] == 2


def test_what_was_made_again_by_this_command_is_not_made_once_more(counter):
    """A stage that cells share, or one that another process has just made."""
    counter.run({})
    redo = Redo(["make"])
    for _ in range(3):
        counter.run({}, redo)
    assert counter.runs == 2
    counter.run({}, Redo(["make"]))
    assert counter.runs == 3


def test_another_host_waits_until_it_sees_what_the_leader_has_recorded(counter, monkeypatch):
    """On NFS a folder's list may be half a minute old."""
    expected = counter.run({"a": 1})
    records = iter([{}, {}, stage.read_record(counter.folder, "make")])
    monkeypatch.setattr(parallel, "is_leader", lambda: False)
    monkeypatch.setattr(stage.Stage, "is_done", lambda self: True)
    monkeypatch.setattr(stage, "read_record", lambda *_: next(records))
    monkeypatch.setattr(stage.time, "sleep", lambda seconds: None)
    assert counter.run({"a": 1}) == expected
    assert next(records, None) is None
