"""Both ways are timed, and README says what was seen."""

from __future__ import annotations

import json

import device_lines
import single_image


def test_both_ways_of_all_networks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(single_image, "RESULTS", tmp_path)
    monkeypatch.setattr(single_image, "PATCH", (8, 16, 16))
    monkeypatch.setattr(single_image.update_readme, "write_readme", (tmp_path / "written").touch)
    assert single_image.main(["--passes", "1"]) == 0
    assert (tmp_path / "written").exists()
    times = json.loads((tmp_path / "single_image.json").read_text())["milliseconds"]
    assert tuple(times) == single_image.SUBNETS
    assert all(time > 0 for ways in times.values() for time in ways.values())
    assert "d2-w1-k3-r1 as torch: " in capsys.readouterr().out


def test_lines(tmp_path):
    about = {"threads": 1, "machine": {"device": "a processor", "instructions": "avx2"}}
    times = {"d1": {"as torch": 90.0, "oneDNN": 30.0}}
    (tmp_path / "single_image.json").write_text(json.dumps({**about, "milliseconds": times}))
    text = "\n".join(device_lines.single_image_lines(tmp_path))
    assert "on a processor, avx2, 1 thread: a pass" in text
    assert "`d1` 30 ms instead of 90 ms (x 3.0)" in text
