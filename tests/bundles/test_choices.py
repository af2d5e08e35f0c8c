"""A subnet is chosen by the handler, by an argument of `network_def`, or as MONAI Label does: one and the same.

The classifier, whose subnets have statistics of their own, has such tests in test_retinal_oct.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.evaluation.subnets import read_rows

SUBNETS = ("smallest", "largest", "d1-w1-k3-r1")


@pytest.fixture(params=["hippocampus", "brats"])
def trained(request):
    return request.getfixturevalue(f"trained_{request.param}")


def network_of(bundle, **choice) -> torch.nn.Module:
    network = bundle.begin("infer", "inference.json", **choice).network_def
    network.load_state_dict(torch.load(bundle.model, weights_only=True))
    return network.eval()


@torch.no_grad()
def test_a_handler_and_network_def_choose_the_same_network(trained, tmp_path):
    """Bitwise the same logits."""
    asked = {"subnets": list(SUBNETS), "output_dir": str(tmp_path)}
    parser = trained.begin("train", "train.json", "evaluate.json", **asked).parser
    evaluator, batches = (parser.get_parsed_content(f"validate::{name}") for name in ("evaluator", "dataloader"))
    channels, outputs = next(iter(batches))["image"].shape[1], []
    image = torch.rand(1, channels, *trained.override["patch"])
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: outputs.append(engine.network(image)))
    evaluator.run()
    by_handler = outputs[:: len(batches)]
    assert len(by_handler) == 3
    assert not torch.equal(by_handler[0], by_handler[1])
    for subnet, wanted in zip(SUBNETS, by_handler, strict=True):
        assert torch.equal(network_of(trained, subnet=subnet)(image), wanted)


def labelled(bundle, network: torch.nn.Module, **choice) -> torch.Tensor:
    """Logits as MONAI Label makes them: its choice is merged, the inferer is made anew, the network is not."""
    parser = bundle.begin("infer", "inference.json").parser
    assert choice.keys() <= parser["displayable_configs"].keys()
    parser["displayable_configs"].update(choice)
    parser.parse()
    image = min(Path(bundle.override["dataset_dir"], "imagesTr").iterdir())
    data = parser.get_parsed_content("preprocessing", instantiate=True)({"image": str(image)})
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        return inferer(data["image"][None], network)


def test_monai_label_chooses_by_name(trained):
    network = network_of(trained)
    outputs = {subnet: labelled(trained, network, subnet=subnet) for subnet in SUBNETS}
    assert not torch.equal(outputs["smallest"], outputs["largest"])
    for subnet in SUBNETS:
        assert torch.equal(labelled(trained, network_of(trained, subnet=subnet), subnet=subnet), outputs[subnet])


def test_monai_label_chooses_by_latency(trained_hippocampus):
    rows = read_rows(Path(trained_hippocampus.override["ckpt_dir"], "subnets.jsonl"))
    limit = sorted(row["latency_ms"] for row in rows)[2]
    best = max((row for row in rows if row["latency_ms"] <= limit), key=lambda row: (row["score"], -row["latency_ms"]))
    network = network_of(trained_hippocampus)
    by_latency = labelled(trained_hippocampus, network, max_latency_ms=limit)
    assert network.active.name == best["key"]
    assert torch.equal(by_latency, labelled(trained_hippocampus, network, subnet=best["key"]))
