from __future__ import annotations

import json
from pathlib import Path

from comparison.published import holds_published, includes_published, publish_units, take_published


def made(folder: Path, result: str, *, model: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name, text in (("unit.json", "{}"), ("result.json", result), ("model.pth", "weights")):
        if model or name != "model.pth":
            (folder / name).write_text(text)
    return folder


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_units_are_published_without_models_and_taken_elsewhere(tmp_path):
    unit = made(tmp_path / "out" / "plus" / "seed0" / "fold1", "0.86")
    (unit / "settings.yaml").write_text("epochs: 3")
    publish_units([unit], tmp_path / "out", tmp_path / "units")
    place = "plus/seed0/fold1/"
    said = {f"{place}unit.json": "{}", f"{place}settings.yaml": "epochs: 3", f"{place}result.json": "0.86"}
    assert files(tmp_path / "units") == said
    assert take_published(tmp_path / "units", tmp_path / "elsewhere") == 1
    assert files(tmp_path / "elsewhere") == said


def test_what_is_done_or_begun_stays(tmp_path):
    made(tmp_path / "units" / "plus" / "fold0", "published", model=False)
    made(tmp_path / "units" / "plus" / "fold1", "published", model=False)
    made(tmp_path / "out" / "plus" / "fold0", "own")
    begun = tmp_path / "out" / "plus" / "fold1"
    begun.mkdir()
    before = files(tmp_path / "out")
    assert take_published(tmp_path / "units", tmp_path / "out") == 0
    assert files(tmp_path / "out") == before


def test_what_is_published_gives_way_to_all_of_it_only(tmp_path):
    summary = tmp_path / "paper.json"
    summary.write_text(json.dumps({"units": [{"method": "plus", "seed": 0, "fold": 1}]}))
    others = [{"method": "plus", "seed": 1, "fold": 1}, {"method": "paper", "seed": 0, "fold": 1}]
    assert not includes_published(others, summary)
    assert includes_published([*others, {"method": "plus", "seed": 0, "fold": 1}], summary)


def test_units_without_seeds_are_told_apart_by_fold(tmp_path):
    summary = tmp_path / "oct.json"
    summary.write_text(json.dumps({"units": [{"method": "plus", "fold": fold} for fold in (0, 1)]}))
    assert not includes_published([{"method": "plus", "fold": 0}, {"method": "paper", "fold": 1}], summary)
    assert includes_published([{"method": "plus", "fold": fold} for fold in (0, 1, 2)], summary)


def test_published_units_are_followed_by_more_where_all_are_done(tmp_path):
    made(tmp_path / "units" / "a" / "fold0", "published", model=False)
    made(tmp_path / "out" / "b" / "fold0", "own")
    assert not holds_published(tmp_path / "out", tmp_path / "units")
    take_published(tmp_path / "units", tmp_path / "out")
    assert holds_published(tmp_path / "out", tmp_path / "units")


def test_nothing_is_published_yet(tmp_path):
    assert holds_published(tmp_path / "out", tmp_path / "units")
    assert includes_published([], tmp_path / "paper.json")
    assert take_published(tmp_path / "units", tmp_path / "out") == 0
