"""Tables beside images: one dialect of CSV, and JSON lines."""

import json

import pytest
from PIL import Image

from jaxdiff.datasets.base import DatasetRequest
from jaxdiff.datasets.image_folder import open_image_folder

ROWS = (("1.png", "b", "TRUE"), ("2.png", "a", "no"), ("10.png", "b", "1.0"))


@pytest.fixture
def folder(tmp_path):
    for name, _, _ in ROWS:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def read_annotations(folder):
    return open_image_folder(DatasetRequest(8, 3, argument=str(folder))).annotations


def check_annotations(folder):
    annotations = read_annotations(folder)
    assert annotations.classes == ("a", "b")
    assert annotations.labels.tolist() == [1, 0, 1]
    assert annotations.attribute("red").tolist() == [True, False, True]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_every_dialect_gives_the_same(folder, delimiter, encoding, line_end):
    header = ("file_name", "label", "red")
    lines = [delimiter.join(row) for row in (header, *ROWS)]
    (folder / "metadata.csv").write_bytes((line_end.join(lines) + line_end).encode(encoding))
    check_annotations(folder)


def test_quotes_and_windows_paths(folder):
    lines = ['"label","red","file_name"', '"b",yes,".\\1.png"', "a,f,2.png", "b,Y,./10.png", ""]
    (folder / "metadata.csv").write_text("\n".join(lines))
    check_annotations(folder)


def test_json_lines(folder):
    values = (True, 0, "yes")
    lines = [
        json.dumps({"file_name": name, "label": label, "red": value, "objects": {"n": [1]}})
        for (name, label, _), value in zip(ROWS, values, strict=True)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    check_annotations(folder)


def test_a_table_in_a_wrapping_folder(folder):
    inner = folder / "images"
    inner.mkdir()
    for name, _, _ in ROWS:
        (folder / name).rename(inner / name)
    lines = ["file_name,label,red", *(",".join(row) for row in ROWS)]
    (inner / "metadata.csv").write_text("\n".join(lines))
    check_annotations(folder)


def test_classes_by_number(folder):
    (folder / "metadata.csv").write_text("file_name,label\n1.png,10\n2.png,2\n10.png,1\n")
    annotations = read_annotations(folder)
    assert annotations.classes == ("1", "2", "10")
    assert annotations.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("values", "is_attribute"),
    [
        (("0", "1", "1"), True),
        (("-1", "1", "-1"), True),
        (("-1", "0", "1"), False),
        (("a cat", "0", "1"), False),
        (("", "", ""), False),
    ],
)
def test_attributes_are_columns_of_yes_and_no(folder, values, is_attribute):
    lines = [
        f"{name},{label},{value}" for (name, label, _), value in zip(ROWS, values, strict=True)
    ]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,red", *lines]))
    assert read_annotations(folder).attribute_names == (("red",) if is_attribute else ())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "csv",
            "1.png,a\n2.png,b\n10.png,b\n1.png,b\n",
            r"names 1.png twice, .* in row 5; remove one",
        ),
        ("csv", "1.png,a\n2.png,b\n10.png,b\n./1.png,a\n", r"names 1.png twice"),
        ("csv", "1.png,\n2.png,b\n10.png,b\n", r"row 2 of .* leaves file_name or label empty"),
        ("csv", "1.png,  \n2.png,b\n10.png,b\n", r"row 2 of .* leaves file_name or label empty"),
        (
            "csv",
            "1.png\n2.png,b\n10.png,b\n",
            r"row 2 of .* has 1 cells and the header has 2; write",
        ),
        ("csv", "1.png,a,b\n2.png,b\n10.png,b\n", r"row 2 of .* has 3 cells .*; quote"),
        ("csv", '1.png,"a\n2.png,b\n10.png,b\n', r"is no CSV file"),
        ("csv", "", r"metadata.csv holds no rows"),
        ("csv", "1.png,caf\xe9\n", r"is neither UTF-8 nor UTF-16; save it as UTF-8"),
        ("csv", "1.png,a\0\n", r"is neither UTF-8 nor UTF-16; save it as UTF-8"),
        ("jsonl", '{"label": ' + "1" * 5000 + "}", r"line 1 of .*jsonl is no JSON .*5000 digits"),
        ("jsonl", '{"file_name": "1.png"}\n', r"has the columns file_name; .* are needed"),
        ("jsonl", '{"file_name": "1.png", "label": null}\n', r"row 1 of .* leaves .* label empty"),
        ("jsonl", "[1]\n", r"line 1 of .* must be an object, got .1.; write it as {"),
        ("jsonl", '\n{"file_name":\n', r"line 2 of .* is no JSON"),
        ("parquet", "PAR1", r"metadata.parquet is not read; write metadata.csv"),
    ],
)
def test_tables_that_are_wrong_are_refused(folder, name, text, message):
    header = "file_name,label\n" if name == "csv" else ""
    (folder / f"metadata.{name}").write_bytes((header + text).encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_annotations(folder)


def test_an_attribute_with_gaps_is_refused(folder):
    (folder / "metadata.csv").write_text("file_name,label,red\n1.png,a,1\n2.png,b,\n10.png,b,0\n")
    with pytest.raises(ValueError, match=r"has no red for 2.png; write yes or no there"):
        read_annotations(folder)


def test_two_tables_are_refused(folder):
    for name in ("metadata.csv", "metadata.jsonl"):
        (folder / name).write_text("")
    with pytest.raises(ValueError, match=r"holds both metadata.csv and metadata.jsonl; keep one"):
        read_annotations(folder)


def test_a_table_of_a_part_is_refused(folder):
    for part in ("train", "test"):
        (folder / part).mkdir()
        (folder / part / "metadata.csv").write_text("file_name,label\n1.png,a\n")
        Image.new("RGB", (8, 8)).save(folder / part / "1.png")
    for name, _, _ in ROWS:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"is not read, since it describes a part of"):
        read_annotations(folder)
