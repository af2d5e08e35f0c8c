"""The retinal bundle from training to a table of predictions, on small synthetic data."""

from __future__ import annotations

import csv
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import SubnetNetwork

TRAIN = ("train", "train.json")
EVALUATE = ("train", "train.json", "evaluate.json")
SEARCH = ("train", "train.json", "search.json")
INFER = ("infer", "inference.json")
CLASSES = ["CNV", "DME", "DRUSEN", "NORMAL"]
ALIASES = ["smallest", "middle", "largest"]


@pytest.fixture
def copied(trained_retinal, tmp_path):
    """The trained bundle, in folders that may be written into."""
    models = Path(shutil.copytree(trained_retinal.override["ckpt_dir"], tmp_path / "models"))
    return trained_retinal.but(ckpt_dir=str(models), output_dir=str(tmp_path / "eval"))


def models(bundle) -> Path:
    return Path(bundle.override["ckpt_dir"])


def predictions(bundle, **override) -> list[list[str]]:
    """The rows of the table that inference writes."""
    bundle.run(*INFER, **override)
    with Path(bundle.override["output_dir"], "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def network_of(bundle, **override) -> SubnetNetwork:
    """The bundle's network with its weights, as a host without handlers makes it."""
    network = bundle.begin(*INFER, **override).network_def
    network.load_state_dict(torch.load(bundle.model, weights_only=True))
    return network.eval()


def test_training_ends_with_all_that_inference_needs(trained_retinal):
    rows = read_rows(models(trained_retinal) / "subnets.jsonl")
    assert [row["name"] for row in rows] == ALIASES
    assert (models(trained_retinal) / "subnet_statistics.pth").is_file()
    for row in rows:
        metrics = ("balanced_accuracy", "macro_auc", "macro_f1", "accuracy", "recall")
        assert set(row["metrics"]) == {f"val_{metric}" for metric in metrics}
        assert row["score"] == row["metrics"]["val_balanced_accuracy"]
        assert row["score"] == pytest.approx(sum(row["metrics"]["val_recall"]) / len(CLASSES))


def test_evaluation_reports_the_other_half(copied):
    workflow = copied.run(*EVALUATE, subnets=["largest", "d1-w4-k3-r1"])
    split = workflow.parser.get_parsed_content("split")
    rows = read_rows(Path(copied.override["output_dir"], "subnets.jsonl"))
    assert [row["name"] for row in rows] == ["largest", "d1-w4-k3-r1"]
    assert {row["cases"] for row in rows} == {len(split["reporting"])}
    assert not {item["patient"] for item in split["tuning"]} & {item["patient"] for item in split["reporting"]}


def test_the_seed_of_a_training_does_not_split_the_data(retinal):
    split, other = (
        retinal.begin(*TRAIN, seed=seed, overwrite=True).parser.get_parsed_content("split") for seed in (0, 1)
    )
    assert split == other


def test_search_makes_subnets_known_to_inference(copied):
    copied.run(*SEARCH, per_bucket=1, buckets=2)
    rows = read_rows(models(copied) / "subnets.jsonl")
    assert [row["name"] for row in rows[:3]] == ALIASES
    assert len({row["key"] for row in rows}) == len(rows) == 5
    drawn = rows[-1]["key"]
    assert network_of(copied, subnet=drawn).active.name == drawn


def test_evaluation_says_how_sure_it_is(copied, tmp_path):
    copied.run(*EVALUATE, subnets=["smallest", "largest"], output_dir=str(tmp_path))
    rows = read_rows(tmp_path / "subnets.jsonl")
    assert [row["name"] for row in rows] == ["smallest", "largest"]
    for row in rows:
        names = {f"val_{name}" for name in ("accuracy", "balanced_accuracy", "macro_auc", "macro_f1")}
        assert row["intervals"].keys() == names
        for name in names:
            low, high = row["intervals"][name]
            assert low <= row["metrics"][name] <= high
        assert row["score_interval"] == row["intervals"]["val_balanced_accuracy"]
        assert row["macro_auc"] == row["metrics"]["val_macro_auc"]


def test_every_image_gets_probabilities_and_a_class(copied, retinal_data):
    head, *rows = predictions(copied)
    assert head == ["file", *CLASSES, "class"]
    assert {row[0] for row in rows} == {str(path) for path in retinal_data.glob("*/*.jpeg")}
    for row in rows:
        probabilities = [float(value) for value in row[1:-1]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row[-1] == CLASSES[probabilities.index(max(probabilities))]


def test_subnet_and_budget_decide(copied):
    seen = {subnet: predictions(copied, subnet=subnet) for subnet in ALIASES}
    assert len({str(rows) for rows in seen.values()}) == 3
    rows = read_rows(models(copied) / "subnets.jsonl")
    budget = sorted(row["latency_ms"] for row in rows)[1]
    best = max((row for row in rows if row["latency_ms"] <= budget), key=lambda row: row["score"])
    assert predictions(copied, max_latency_ms=budget) == seen[best["name"]]


@torch.no_grad()
def test_a_handler_and_network_def_choose_the_same_network(copied):
    """Bitwise the same logits, with the statistics that the handler estimated."""
    parser = copied.begin(*EVALUATE, subnets=ALIASES).parser
    evaluator, batches = (parser.get_parsed_content(f"validate::{name}") for name in ("evaluator", "dataloader"))
    images, outputs = next(iter(batches))["image"], []
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: outputs.append(engine.network(images)))
    evaluator.run()
    by_handler = outputs[:: len(batches)]
    assert len(by_handler) == 3
    for subnet, wanted in zip(ALIASES, by_handler, strict=True):
        assert torch.equal(network_of(copied, subnet=subnet)(images), wanted)


@torch.no_grad()
def test_monai_label_chooses_a_subnet_without_a_handler(trained_retinal, retinal_data):
    """Its choice is merged, the inferer is made anew, the network is not."""
    parser, network = trained_retinal.begin(*INFER).parser, network_of(trained_retinal)
    assert parser.get_parsed_content("displayable_configs") == {"subnet": "largest", "max_latency_ms": 0}
    item = parser.get_parsed_content("preprocessing")({"image": str(next(retinal_data.glob("CNV/*.jpeg")))})
    logits = {}
    for subnet in ALIASES:
        parser["displayable_configs"].update(subnet=subnet)
        parser.parse()
        logits[subnet] = parser.get_parsed_content("inferer", instantiate=True)(item["image"][None], network)
        assert torch.equal(logits[subnet], network_of(trained_retinal, subnet=subnet)(item["image"][None]))
    assert not torch.equal(logits["smallest"], logits["largest"])


def test_images_are_upright(trained_retinal, retinal_data, tmp_path):
    """Height comes first: the lowest band of a retina is bright from left to right, not from top to bottom."""
    preprocessing = trained_retinal.begin(*INFER).parser.get_parsed_content("preprocessing")
    image = preprocessing({"image": str(next(retinal_data.glob("NORMAL/*.jpeg")))})["image"]
    assert image.shape == (1, 32, 32)
    assert image.mean(2).std() > 3 * image.mean(1).std()
    assert -1 <= image.min() < image.max() <= 1


@pytest.mark.parametrize(
    ("preset", "stages"),
    [
        ("paper", "depth depth width kernel resolution"),
        ("paper_mr", "depth depth width kernel"),
        ("progressive_shrinking", "kernel kernel depth width"),
    ],
)
def test_a_method_is_one_setting(retinal, preset, stages):
    schedule = retinal.run(*TRAIN, preset=preset, val_interval=100).parser.get_parsed_content("schedule")
    assert " ".join(phase.stage for phase in schedule.phases) == stages
    assert [row["name"] for row in read_rows(models(retinal) / "subnets.jsonl")] == ALIASES


def test_training_is_repeatable_and_goes_on(retinal, trained_retinal):
    """Broken off after three epochs, to the same weights as one that was not."""
    retinal.run(*TRAIN, **{"train::trainer::max_epochs": 3})
    first = torch.load(retinal.model, weights_only=True)
    retinal.run(*TRAIN, resume=True)
    ours, theirs = (torch.load(bundle.model, weights_only=True) for bundle in (retinal, trained_retinal))
    assert first.keys() < theirs.keys()
    assert any(not torch.equal(tensor, theirs[name]) for name, tensor in first.items() if name != "_extra_state")
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []


def test_a_training_that_ended_early_offers_what_it_trained(retinal):
    """Also the evaluation at its end, so that inference works at once."""
    workflow = retinal.run(*TRAIN, **{"train::trainer::max_epochs": 3})
    space = workflow.parser.get_parsed_content("schedule").phase_at(2).space
    assert network_of(retinal).space == space
    rows = read_rows(models(retinal) / "subnets.jsonl")
    assert [row["name"] for row in rows] == ALIASES
    assert [row["key"] for row in rows][::2] == [space.smallest().name, space.largest().name]
    assert len(predictions(retinal, subnet="middle")) > 1
