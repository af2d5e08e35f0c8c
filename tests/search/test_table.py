from __future__ import annotations

from prox_monai.search.table import rows_table


def test_table(rows):
    assert rows_table(rows[:2]) == (
        "subnet        parameters  GMAC  latency (ms)   Dice\n"
        "smallest       1,234,567  1.50           2.0  0.790\n"
        "d1-w.5-k3-r1   1,234,567  1.50           4.0      -"
    )
