from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time

import pytest

from prox_monai.evaluation.table import SharedRows, append_row, mend_lines, read_lines


def append_many(path, first: int) -> None:
    for number in range(first, first + 50):
        append_row({"key": str(number), "filler": "x" * 3000}, path)


def claim_and_hang(path, ready) -> None:
    with SharedRows(path).claim("a"):
        ready.set()
        time.sleep(60)


def spawn(function, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    return process


def test_rows_of_several_processes_do_not_mix(tmp_path):
    path = tmp_path / "rows.jsonl"
    processes = [spawn(append_many, path, first) for first in (0, 50, 100)]
    for process in processes:
        process.join(60)
    assert sorted(int(row["key"]) for row in read_lines(path)) == list(range(150))


def test_what_is_left_of_a_row_is_cut_off(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a"}\n{"key": "b", "val')
    with caplog.at_level(logging.WARNING):
        assert read_lines(path) == [{"key": "a"}]
    assert "the last row was cut off" in caplog.text
    append_row({"key": "c"}, path)
    assert path.read_text() == '{"key": "a"}\n{"key": "c"}\n'


def test_what_is_left_of_a_long_first_row_is_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "' + "a" * 200_000)
    append_row({"key": "c"}, path)
    assert path.read_text() == '{"key": "c"}\n'


def test_a_complete_row_without_its_end_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a"}')
    assert read_lines(path) == [{"key": "a"}]
    append_row({"key": "c"}, path)
    assert [row["key"] for row in read_lines(path)] == ["a", "c"]


@pytest.mark.parametrize(
    ("content", "mended"),
    [('{"a": 1}\n{"b', '{"a": 1}\n'), ('{"a": 1}', '{"a": 1}\n'), ('{"a": 1}\n', '{"a": 1}\n'), ("", "")],
)
def test_lines_are_mended(tmp_path, content, mended):
    path = tmp_path / "lines"
    mend_lines(path)
    assert not path.exists()
    path.write_text(content)
    mend_lines(path)
    assert path.read_text() == mended


@pytest.mark.parametrize("line", ["{oops", "7", ""])
def test_another_line_is_an_error(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{line}\n{{"key": "a"}}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1 is not a row: "):
        read_lines(path)


def test_rows_of_others_are_seen_and_the_first_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    mine, theirs = SharedRows(path), SharedRows(path)
    assert mine.get("a") is None
    theirs.append({"key": "a", "value": 1})
    append_row({"key": "a", "value": 2}, path)
    with path.open("a") as file:
        file.write('{"key": "b"')  # is being written
    assert mine.get("a") == {"key": "a", "value": 1}
    assert mine.get("b") is None
    with path.open("a") as file:
        file.write("}\n")
    assert mine.get("b") == {"key": "b"}


def test_a_claim_is_one_processs_at_a_time(tmp_path):
    path = tmp_path / "rows.jsonl"
    with SharedRows(path).claim("a") as ours:
        assert ours
        with SharedRows(path).claim("a") as theirs, SharedRows(path).claim("b") as other:
            assert (theirs, other) == (False, True)
    with SharedRows(path).claim("a") as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_a_claim_ends_with_its_process(tmp_path):
    path = tmp_path / "rows.jsonl"
    ready = multiprocessing.get_context("spawn").Event()
    process = spawn(claim_and_hang, path, ready)
    assert ready.wait(60)
    with SharedRows(path).claim("a") as ours:
        assert not ours
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with SharedRows(path).claim("a") as ours:
        assert ours


def test_rows_are_plain_json(tmp_path):
    append_row({"key": "a", "value": None}, tmp_path / "rows.jsonl")
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"key": "a", "value": None}


@pytest.mark.parametrize("use", [read_lines, mend_lines, lambda path: append_row({"key": "a"}, path)])
def test_a_file_of_something_else_is_left_alone(tmp_path, use):
    """It has no row that was cut off."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a note without a newline")
    with pytest.raises(ValueError, match=r"rows.jsonl is no table of rows: it begins with b'a'"):
        use(path)
    assert path.read_bytes() == b"a note without a newline"
