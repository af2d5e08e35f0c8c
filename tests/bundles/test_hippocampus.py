"""The hippocampus bundle from training to label maps, on small synthetic data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.evaluation.subnets import read_rows

OTHER = "d1-w1-k3-r1"


def predictions(bundle, images: Path, folder: Path, **override) -> dict[str, np.ndarray]:
    """Label maps that the bundle writes; each is checked against its image."""
    bundle.run("infer", "inference.json", dataset_dir=str(images), output_dir=str(folder), **override)
    maps = {}
    for path in sorted(images.glob("*.nii.gz")):
        image, label = nib.load(path), nib.load(folder / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert label.shape == image.shape
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
        maps[path.name] = np.asarray(label.dataobj)
        assert set(np.unique(maps[path.name])) <= {0, 1, 2}
    return maps


@pytest.fixture(scope="module")
def images(hippocampus_data, tmp_path_factory) -> Path:
    """An image as it was made, and one in another orientation, spacing and position."""
    folder = tmp_path_factory.mktemp("images")
    first, second = sorted((hippocampus_data / "imagesTr").iterdir())[:2]
    (folder / first.name).symlink_to(first)
    affine = np.array([[0, -1.3, 0, 40], [0.8, 0, 0, -7], [0, 0, -1.1, 12], [0, 0, 0, 1]], float)
    nib.save(nib.Nifti1Image(nib.load(second).get_fdata(dtype=np.float32), affine), folder / "turned.nii.gz")
    return folder


def test_training_goes_through_all_phases(trained_hippocampus):
    folder = Path(trained_hippocampus.override["ckpt_dir"])
    kept = {path.name for path in (folder / "training").iterdir()}
    assert len(kept) == 2, "if the last one is not written to its end, training goes on from the one before"
    checkpoint = torch.load(folder / "training" / "checkpoint_epoch=6.pt", weights_only=True)
    assert checkpoint["expansion"]["epochs"] == 6
    model = torch.load(folder / "model.pt", weights_only=True)
    assert all(torch.equal(tensor, checkpoint["model"][name]) for name, tensor in model.items())
    assert list(Path(trained_hippocampus.override["output_dir"], "tensorboard").iterdir())


def test_evaluation_is_of_the_reporting_half(trained_hippocampus, tmp_path):
    workflow = trained_hippocampus.run("train", "train.json", "evaluate.json", output_dir=str(tmp_path))
    rows = read_rows(tmp_path / "subnets.jsonl")
    assert [row["name"] for row in rows] == ["smallest", "middle", "largest"]
    split = workflow.parser.get_parsed_content("split")
    assert rows[0]["cases"] == len(split["reporting"]) == 1
    data = workflow.parser.get_parsed_content("validate::dataset").data
    assert [item["case"] for item in data] == [item["case"] for item in split["reporting"]]
    assert (tmp_path / "subnets.png").is_file()
    for row in rows:
        assert 0 <= row["nsd"] == row["metrics"]["nsd"] <= 1
        assert row["hd95_mm"] is None or row["hd95_mm"] > 0  # None where a structure was not found
        assert len(row["per_class"]["nsd"]) == len(row["per_class"]["hd95_mm"]) == 2
        assert row["intervals"].keys() == {"val_mean_dice", "nsd", "hd95_mm"}  # of one case there is none
    assert rows[-1]["nsd"] > 0
    assert rows[-1]["hd95_mm"] > 0


def test_a_budget_chooses_among_what_the_search_has_found(trained_hippocampus, tmp_path):
    known = read_rows(Path(trained_hippocampus.override["ckpt_dir"], "subnets.jsonl"))
    limit = sorted(row["latency_ms"] for row in known)[len(known) // 2]
    best = max((row for row in known if row["latency_ms"] <= limit), key=lambda row: (row["score"], -row["latency_ms"]))
    names = ("train", "train.json", "evaluate.json")
    trained_hippocampus.run(*names, max_latency_ms=limit, output_dir=str(tmp_path))
    (row,) = read_rows(tmp_path / "subnets.jsonl")
    assert row["key"] == best["key"]
    assert row["data"] != best["data"]  # the other half


def test_search_writes_rows_of_named_and_random_subnets(trained_hippocampus):
    table = Path(trained_hippocampus.override["ckpt_dir"], "subnets.jsonl")
    rows = read_rows(table)
    assert [row["name"] for row in rows[:3]] == ["smallest", "middle", "largest"]
    assert len({row["key"] for row in rows}) == len(rows) == 5
    before = table.read_text()
    trained_hippocampus.run("train", "train.json", "search.json", per_bucket=1, buckets=2)
    assert table.read_text() == before


def test_search_names_the_best_within_a_budget(trained_hippocampus):
    rows = read_rows(Path(trained_hippocampus.override["ckpt_dir"], "subnets.jsonl"))
    budget = sorted(row["latency_ms"] for row in rows)[1]
    workflow = trained_hippocampus.run("train", "train.json", "search.json", max_latency_ms=budget)
    best = max((row for row in rows if row["latency_ms"] <= budget), key=lambda row: row["score"])
    assert [row["key"] for row in workflow.parser.get_parsed_content("validate::sampling").rows] == [best["key"]]


def test_label_maps_lie_on_their_images(trained_hippocampus, images, tmp_path):
    for subnet in ("largest", "smallest", "middle", OTHER):
        assert len(predictions(trained_hippocampus, images, tmp_path / subnet, subnet=subnet)) == 2


def test_an_image_that_is_stored_otherwise_has_the_same_labels(trained_hippocampus, images, tmp_path):
    """Axes exchanged and turned round, the same place in the world."""
    (straight,) = (path for path in images.iterdir() if path.name != "turned.nii.gz")
    image = nib.load(straight)
    turned = nib.as_closest_canonical(image).as_reoriented(nib.orientations.axcodes2ornt("PIR"))
    (tmp_path / "images").mkdir()
    nib.save(image, tmp_path / "images" / "straight.nii.gz")
    nib.save(turned, tmp_path / "images" / "turned.nii.gz")
    predictions(trained_hippocampus, tmp_path / "images", tmp_path)
    ours, theirs = (
        nib.as_closest_canonical(nib.load(tmp_path / f"{name}_seg.nii.gz")) for name in ("straight", "turned")
    )
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    assert len(np.unique(np.asarray(ours.dataobj))) > 1


def test_a_budget_predicts_as_the_subnet_it_chooses(trained_hippocampus, images, tmp_path):
    rows = read_rows(Path(trained_hippocampus.override["ckpt_dir"], "subnets.jsonl"))
    budget = sorted(row["latency_ms"] for row in rows)[2]
    best = max((row for row in rows if row["latency_ms"] <= budget), key=lambda row: row["score"])
    ours = predictions(trained_hippocampus, images, tmp_path / "budget", max_latency_ms=budget)
    theirs = predictions(trained_hippocampus, images, tmp_path / "name", subnet=best["key"])
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def labelled(parser: ConfigParser, network: torch.nn.Module, image: Path, **choice) -> torch.Tensor:
    """Logits as MONAI Label makes them: its choice is merged, the inferer is made anew, the network is not."""
    parser["displayable_configs"].update({name: choice[name] for name in parser["displayable_configs"]})
    parser.parse()
    data = {"image": str(image)}
    data = parser.get_parsed_content("preprocessing", instantiate=True)(data)
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        return inferer(data["image"][None], network)


def test_monai_label_chooses_a_subnet_without_a_handler(trained_hippocampus, images):
    parser = ConfigParser()
    parser.read_config(trained_hippocampus.files("inference.json"))
    parser.update(trained_hippocampus.override)
    shown = parser.get_parsed_content("displayable_configs", instantiate=True)
    assert shown == {"subnet": "largest", "max_latency_ms": 0}
    network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(trained_hippocampus.model, weights_only=True))
    network.eval()
    image = images / "turned.nii.gz"
    outputs = {subnet: labelled(parser, network, image, **{**shown, "subnet": subnet}) for subnet in ("largest", OTHER)}
    again = labelled(parser, network, image, **shown)
    assert torch.equal(again, outputs["largest"])
    assert not torch.equal(outputs[OTHER], outputs["largest"])
    chosen = trained_hippocampus.begin("infer", "inference.json", subnet=OTHER).network_def
    chosen.load_state_dict(torch.load(trained_hippocampus.model, weights_only=True))
    assert torch.equal(labelled(parser, chosen.eval(), image, **{**shown, "subnet": OTHER}), outputs[OTHER])
    post = parser.get_parsed_content("postprocessing", instantiate=True)
    assert [type(transform).__name__ for transform in post.transforms][-1] == "SaveImaged"


def test_a_training_that_was_broken_off_goes_on(hippocampus, trained_hippocampus):
    """To the same weights as one that was not."""
    hippocampus.run("train", "train.json", **{"train::trainer::max_epochs": 3})
    first = torch.load(hippocampus.model, weights_only=True)
    hippocampus.run("train", "train.json", resume=True)
    ours, theirs = (torch.load(bundle.model, weights_only=True) for bundle in (hippocampus, trained_hippocampus))
    assert first.keys() < theirs.keys()
    assert any(not torch.equal(tensor, theirs[name]) for name, tensor in first.items() if name != "_extra_state")
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []
    hippocampus.run("train", "train.json", resume=True)  # nothing is left to do
    again = torch.load(hippocampus.model, weights_only=True)
    assert [name for name, tensor in ours.items() if not torch.equal(again[name], tensor)] == []


def test_a_training_that_ended_early_offers_what_it_trained(hippocampus, images, refusal, tmp_path):
    """Its phases had come to width: kernels and resolutions have not been trained."""
    workflow = hippocampus.run("train", "train.json", **{"train::trainer::max_epochs": 3})
    space = workflow.parser.get_parsed_content("schedule").phase_at(2).space
    network = hippocampus.begin("infer", "inference.json").network_def
    network.load_state_dict(torch.load(hippocampus.model, weights_only=True))
    assert network.space == space
    assert network.active == space.largest() == space.parse("d2-w1-k3-r.5")
    text = refusal(lambda: predictions(hippocampus, images, tmp_path, subnet="d2-w1-k5-r1"))
    assert "kernel 5 of section 0 is not in the search space (3,)" in text
    hippocampus.run("train", "train.json", "evaluate.json", subnets=["smallest", "largest"])
    rows = read_rows(Path(hippocampus.override["output_dir"], "subnets.jsonl"))
    assert [row["key"] for row in rows] == [space.smallest().name, space.largest().name]
    assert len(predictions(hippocampus, images, tmp_path)) == 2


def test_a_training_is_begun_anew_when_asked(hippocampus, trained_hippocampus):
    hippocampus.run("train", "train.json", seed=1)
    other = torch.load(hippocampus.model, weights_only=True)
    hippocampus.run("train", "train.json", overwrite=True)
    ours, theirs = (torch.load(bundle.model, weights_only=True) for bundle in (hippocampus, trained_hippocampus))
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []
    assert any(not torch.equal(other[name], tensor) for name, tensor in theirs.items())
