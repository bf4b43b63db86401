"""CSV files: delimiters, quoting, types, bad rows and line numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from secateurs.errors import DataError
from secateurs.tasks.base import Columns
from secateurs.tasks.data.columns import skip_empty, texts_of
from secateurs.tasks.data.sources import read_splits
from secateurs.tasks.data.splits import divide

MANY = "text,label\n" + "".join(f'"row {i}, and more",{i % 2}\n' for i in range(400))


def rows_of(folder: Path, content: str | bytes, name: str = "data.csv") -> Dataset:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_splits(str(folder / name))["data"]


READ = {
    "semicolons": ("label;text\npos;a, b\nneg;c\n", ["a, b", "c"]),
    "semicolons in quotes": ('"label";"text"\n"pos";"a; b"\n', ["a; b"]),
    "a comma in every text": ("label;text\npos;a, b\nneg;c, d\n", ["a, b", "c, d"]),
    "tabs": ("label\ttext\n1\ta, b\n", ["a, b"]),
    "bars": ("label|text\n1|a, b\n", ["a, b"]),
    "several lines": ('text,label\n"a\nb, c",1\n"d ""e"" f",0\n', ["a\nb, c", 'd "e" f']),
    "stray quotes": ('text\tlabel\n"Yes he said\t1\nno" end\t0\nplain\t1\n', ['"Yes he said', 'no" end', "plain"]),
    "stray quotes of two lines": ('text\tlabel\n"Yes\t1\nb\t0\nc"\t1\n', ['"Yes', "b", 'c"']),
    "escaped quotes": ('text,label\n"he said \\"hi\\", ok",1\n"b, c",0\n', ['he said "hi", ok', "b, c"]),
    "single quotes": ("text,label\n'a, b',1\n'it is', 0\n", ["a, b", "it is"]),
    "one column": ("text\nhello, world\nfoo\n", ["hello, world", "foo"]),
    "one quoted column": ('text\n"hello, world"\n"foo ""b"""\n', ["hello, world", 'foo "b"']),
    "Excel's hint": ("sep=;\r\ntext;label\r\na, b;1\r\n", ["a, b"]),
    "a byte order mark": ("\ufefftext,label\r\na,1\r\n", ["a"]),
    "UTF-16": ("text\tlabel\ncaf\u00e9\t1\n".encode("utf-16"), ["caf\u00e9"]),
    "columns without names": ("text,label,,\nham,1,,\n", ["ham"]),
    "the index of pandas": (",text,label\n0,a,1\n", ["a"]),
    "words like missing values": ("text,label\nnull,1\nN/A,0\nNone,1\nnan,0\n", ["null", "N/A", "None", "nan"]),
}


@pytest.mark.parametrize("case", READ)
def test_delimiter_and_quoting_are_found(tmp_path: Path, case: str) -> None:
    content, texts = READ[case]
    assert rows_of(tmp_path, content)["text"][:] == texts


REFUSED = {
    "commas without quotes": (
        "text,label\na, b,1\nc, d,0\n",
        r"commas give the columns text, label, but 2 of 2 rows .*\(line 2 has 3 fields\).*double quotes",
    ),
    "two delimiters": (
        "a;b,c\nx;1,2\ny;2,3\n",
        "commas give the columns a;b, c and semicolons give the columns a, b,c",
    ),
    "unnamed columns": ("text\na;1\nb;0\nc;1\n", "semicolons divide every row into 2 fields.*name all columns"),
    "another encoding": ("text,label\ncaf\u00e9,1\n".encode("latin-1"), "line 2 is not UTF-8.*iconv -f cp1252"),
    "nothing": ("", "the file is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_guessed_is_refused(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path, content)


def test_columns_are_numbers_only_if_all_cells_are(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a,b,c,d,text\n1,0.5,True,1\n2,,False,x,\n,1e3,,2,y\n")
    assert rows.to_dict() == {
        "a": [1, 2, None],
        "b": [0.5, None, 1000.0],
        "c": [True, False, None],
        "d": ["1", "x", "2"],
        "text": [None, None, "y"],
    }


@pytest.mark.parametrize("row", ['"bad "x" q",1', '"bad,1', "one,two,three", "one"])
def test_a_few_bad_rows_are_skipped_and_counted(tmp_path: Path, row: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of(tmp_path, MANY.replace('"row 7, and more",1', row))
    assert rows["text"][:] == [f"row {i}, and more" for i in range(400) if i != 7]
    assert "1 of 400 rows skipped" in caplog.text
    assert "(the first is line 9)" in caplog.text


def test_rows_without_text_are_skipped_or_named_by_their_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data.csv").write_text(MANY.replace('"row 291, and more"', "").replace('"row 6, and more"', "null"))
    splits = read_splits(str(tmp_path))
    kept = skip_empty(splits, Columns(), "here")["data"]
    assert len(kept) == 399
    assert kept["text"][6] == "null"
    assert "1 of 400 rows skipped, which have no 'text' (the first is line 293 of data.csv)" in caplog.text
    division = divide("here", splits, usable=lambda rows: True, seed=0)  # shuffled
    for rows in (division.rows, division.held_out):
        assert rows is not None
        if None in rows["text"][:]:
            with pytest.raises(DataError, match=r"^line 293 of data\.csv, column 'text', has no text"):
                texts_of(rows, "text", "here")
            break
    else:
        pytest.fail("the row is in neither part")


def test_many_rows_without_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "a,1\n" * 50 + ",1\n")
    splits = skip_empty(read_splits(str(tmp_path)), Columns(), "here")
    with pytest.raises(DataError, match=r"line 52 of data\.csv, column 'text', has no text"):
        texts_of(splits["data"], "text", "here")


def test_rows_of_other_files_keep_their_numbers_after_shuffling() -> None:
    rows = Dataset.from_dict({"text": ["a"] * 30 + [None] + ["a"] * 9}).shuffle(seed=1)
    with pytest.raises(DataError, match="row 30 of column 'text' of here has no text"):
        texts_of(rows, "text", "here")
