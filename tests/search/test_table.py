from __future__ import annotations

from prox_monai.search.table import buckets_table, rows_table


def test_surfaces_and_peak_memory_have_columns_where_they_were_measured(rows):
    measured = [rows[0] | {"nsd": 0.95, "hd95_mm": 1.234, "peak_memory_bytes": 52_400_000}, rows[1]]
    head, first, second = rows_table(measured).splitlines()
    assert head.endswith("NSD  HD95 (mm)  peak memory (MB)")
    assert first.split()[-3:] == ["0.950", "1.23", "52"]
    assert second.split()[-3:] == ["-", "-", "-"]


def test_table(rows):
    assert rows_table(rows[:2]) == (
        "subnet        parameters  GMAC  latency (ms)   Dice\n"
        "smallest       1,234,567  1.50           2.0  0.790\n"
        "d1-w.5-k3-r1   1,234,567  1.50           4.0      -"
    )


def test_buckets():
    rows = [{"latency_ms": float(i), "score": i / 10} for i in range(1, 5)] + [{"latency_ms": 9.0, "score": None}]
    assert buckets_table(rows, 2, value="score") == (
        "latency (ms)  subnets   mean  least   most\n"
        "1.0 to 2.0          2  0.150  0.100  0.200\n"
        "3.0 to 4.0          2  0.350  0.300  0.400"
    )


def test_another_value_has_its_name(rows):
    scored = [row | {"score": 0.5} for row in rows[:1]]
    assert rows_table(scored, value="score", head="accuracy").splitlines()[0].endswith("accuracy")


def test_intervals_and_latencies_may_be_missing(rows):
    measured = [rows[0] | {"dice_interval": [0.7, 0.88]}, rows[0] | {"dice_interval": None, "latency_ms": None}]
    lines = rows_table(measured, interval=True).splitlines()
    assert [line.split("  ")[-1].strip() for line in lines] == ["95 % interval", "0.700 to 0.880", "-"]
    assert lines[2].split()[3] == "-"
