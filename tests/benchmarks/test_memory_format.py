"""Both layouts are timed, and README says what was seen."""

from __future__ import annotations

import json

import device_lines
import memory_format


def test_both_layouts_of_both_ends(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(memory_format, "RESULTS", tmp_path)
    monkeypatch.setattr(memory_format, "PATCH", (8, 16, 8))
    monkeypatch.setattr(memory_format.update_readme, "write_readme", (tmp_path / "written").touch)
    assert memory_format.main(["--steps", "1"]) == 0
    assert (tmp_path / "written").exists()
    (path,) = tmp_path.glob("memory_format_*.json")
    result = json.loads(path.read_text())
    assert [name.split()[0] for name in result["seconds"]] == ["smallest", "largest"]
    assert all(time > 0 for times in result["seconds"].values() for time in times.values())
    assert "smallest d1-w.25-k3-r1 as they are: " in capsys.readouterr().out


def test_lines(tmp_path):
    seconds = {"smallest d1": {"as they are": 0.2, "channels last": 0.15}}
    about = {"capability": "AVX2", "threads": 2, "machine": {"device": "a processor"}, "seconds": seconds}
    (tmp_path / "memory_format_avx2.json").write_text(json.dumps(about))
    text = "\n".join(device_lines.memory_format_lines(tmp_path))
    assert "on a processor (AVX2), threads: 2" in text
    assert "smallest d1 0.150 s instead of 0.200 s (-25%)" in text
