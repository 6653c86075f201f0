"""The table beside a folder of images: metadata.csv or metadata.jsonl, as Hugging Face has them."""

import codecs
import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from jaxdiff.datasets.image_files import is_regular_file

TABLES = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"
LABEL = "label"
DELIMITERS = ",;\t|"
JSON_ROW = '{"file_name": "1.png", "label": "cat"}'
NO = frozenset({"0", "0.0", "-1", "-1.0", "false", "f", "no", "n"})
YES = frozenset({"1", "1.0", "true", "t", "yes", "y"})

Row = dict[str, str]


class Table(NamedTuple):
    """The columns of a table, and its rows by the path of their image."""

    path: epath.Path
    columns: tuple[str, ...]
    rows: dict[str, Row]

    def attributes(self) -> dict[str, dict[str, bool]]:
        """The columns of yes and no: by name, the value of each image.

        Other columns, as captions, are left out.

        Raises
        ------
        ValueError
            For a column of yes and no that some rows leave empty.
        """
        columns = (column for column in self.columns if column not in (FILE_NAME, LABEL))
        return {
            column: {name: row[column].casefold() in YES for name, row in self.rows.items()}
            for column in columns
            if self._is_binary(column)
        }

    def _is_binary(self, column: str) -> bool:
        values = {row[column].casefold() for row in self.rows.values()}
        # -1, 0 and 1 together are three values
        is_binary = values - {""} <= NO | YES and not values >= {"-1", "0"} and values != {""}
        if is_binary and "" in values:
            name = next(name for name, row in self.rows.items() if not row[column])
            raise ValueError(
                f"{self.path} has no {column} for {name}; write yes or no there, or remove the "
                "column"
            )
        return is_binary


def find_table(folder: epath.Path) -> epath.Path | None:
    """The table of a folder of images; None where there is none.

    Raises
    ------
    ValueError
        For two tables, or one in another format.
    """
    tables = [folder / name for name in TABLES if (folder / name).exists()]
    if len(tables) > 1:
        raise ValueError(f"{folder} holds both {' and '.join(TABLES)}; keep one of them")
    if not tables and (folder / "metadata.parquet").exists():
        raise ValueError(f"{folder}/metadata.parquet is not read; write {TABLES[0]} in its place")
    return tables[0] if tables else None


def read_table(path: epath.Path) -> Table:
    """Read a table; every row names another image and its label.

    A CSV may be UTF-8 or UTF-16 and be separated by commas, semicolons, tabs or bars.

    Raises
    ------
    ValueError
        Naming the file, and the row where one is wrong.
    """
    read_rows = _read_csv if path.suffix == ".csv" else _read_json_lines
    rows: dict[str, Row] = {}
    columns: tuple[str, ...] = ()
    for number, row in read_rows(path, _read_text(path)):
        columns = tuple(dict.fromkeys([*columns, *row]))
        if not {FILE_NAME, LABEL} <= set(row):
            raise ValueError(
                f"{path} has the columns {', '.join(row) or 'none'}; "
                f"{FILE_NAME} and {LABEL} are needed (row {number}), so rename or add them"
            )
        # paths as Windows and `find .` write them
        name = posixpath.normpath(row[FILE_NAME].replace("\\", "/"))
        if not row[FILE_NAME] or not row[LABEL]:
            raise ValueError(f"row {number} of {path} leaves {FILE_NAME} or {LABEL} empty; fill it")
        if name in rows:
            raise ValueError(
                f"{path} names {name} twice, the second time in row {number}; remove one of them"
            )
        rows[name] = row
    if not rows:
        raise ValueError(f"{path} holds no rows; {FILE_NAME} and {LABEL} of each image are needed")
    complete = {name: dict.fromkeys(columns, "") | row for name, row in rows.items()}
    return Table(path, columns, complete)


def _read_text(path: epath.Path) -> str:
    if not is_regular_file(path):
        raise ValueError(f"{path} is no regular file; a table is expected")
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without its mark is full of zeros, and valid UTF-8
    if "\0" in text:
        raise ValueError(
            f"{path} is neither UTF-8 nor UTF-16; save it as UTF-8 (in Excel: CSV UTF-8)"
        )
    return text


def _read_csv(path: epath.Path, text: str) -> Iterator[tuple[int, Row]]:
    """Yield each row and its number, the header being row 1."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=_find_delimiter(text),
        skipinitialspace=True,
        strict=True,
    )
    try:
        lines = [[cell.strip() for cell in line] for line in reader]
    except csv.Error as error:
        raise ValueError(
            f"{path} is no CSV file ({error}, line {reader.line_num}); write it again"
        ) from None
    header = lines[0] if lines else []
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has two columns of one name: {', '.join(header)}; rename one")
    for number, line in enumerate(lines[1:], 2):
        if not any(line):
            continue
        is_short = len(line) < len(header)
        if len(line) != len(header):
            raise ValueError(
                f"row {number} of {path} has {len(line)} cells and the header has {len(header)}; "
                + ("write the others" if is_short else "quote cells that hold the delimiter")
            )
        yield number, dict(zip(header, line, strict=True))


def _find_delimiter(text: str) -> str:
    """The character that makes file_name a column of the header."""
    header = text.partition("\n")[0]
    for delimiter in DELIMITERS:
        if FILE_NAME in [cell.strip(' \r"') for cell in header.split(delimiter)]:
            return delimiter
    return DELIMITERS[0]


def _read_json_lines(path: epath.Path, text: str) -> Iterator[tuple[int, Row]]:
    """Yield each row and the number of its line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {path} is no JSON ({error}); repair it") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"line {number} of {path} must be an object, got {line[:60]}; write it as "
                f"{JSON_ROW}"
            )
        yield number, {column: _to_text(value) for column, value in row.items()}


def _to_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)
