"""What becomes of rows when one of two processes is killed: with processes that do it right, and wrong."""

from __future__ import annotations

import sys
import textwrap

import pytest
import two_processes

ROWS = 24


def worker(table, *, body: str) -> list[str]:
    """A command that appends rows to a table; ``body`` says how it writes row ``i``."""
    program = f"""
        import time
        from prox_monai.evaluation.table import SharedRows
        table = SharedRows({str(table)!r})
        for i in range({ROWS}):
            row = {{"key": str(i)}}
            {body}
    """
    return [sys.executable, "-c", textwrap.dedent(program)]


CAREFUL = """
            while table.get(row["key"]) is None:
                with table.claim(row["key"]) as ours:
                    if ours and table.get(row["key"]) is None:
                        time.sleep(0.1)
                        table.append(row)
"""
CARELESS = """
            time.sleep(0.1)
            table.append(row)
"""


def test_no_row_is_lost_or_doubled(tmp_path):
    table = tmp_path / "rows.jsonl"
    seen = two_processes.one_dies(worker(table, body=CAREFUL), table, 5)
    assert 5 <= seen["killed_at"] < ROWS
    assert (seen["rows"], seen["lost"], seen["doubled"]) == (ROWS, 0, 0)


def test_doubled_rows_are_seen(tmp_path):
    table = tmp_path / "rows.jsonl"
    seen = two_processes.one_dies(worker(table, body=CARELESS), table, 5)
    assert seen["doubled"] == seen["rows"] - ROWS > 0


def test_an_error_of_the_process_that_is_left_is_told(tmp_path):
    table = tmp_path / "rows.jsonl"
    with pytest.raises(RuntimeError, match=r"a process ended at 0 rows, before 5 of .*rows.jsonl were there"):
        two_processes.one_dies([sys.executable, "-c", "raise SystemExit(3)"], table, 5)
    failing = worker(table, body=CARELESS + "            if i > 8: raise SystemExit(3)\n")
    with pytest.raises(RuntimeError, match=r"the process that was left ended with 3, see .*[.]log"):
        two_processes.one_dies(failing, table, 5)
