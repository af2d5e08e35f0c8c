"""A subnet is the same network whoever chooses it: a handler, `network_def` or the inferer."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.inferers import SimpleInferer, SlidingWindowInferer

from prox_monai.elastic import Supernet
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai.choice import SubnetChoice
from prox_monai.integrations.monai.network import SubnetInferer, SubnetNetwork
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler
from prox_monai.integrations.monai.statistics import digest, write_statistics
from prox_monai.space import SearchSpace, unet_groups

SUBNETS = ("largest", "smallest", "d1-w1-k3.5.3-r1", "d2.1.2-w.5-k5-r.5")
X = torch.linspace(-2, 2, 144).reshape(1, 1, 12, 12)


def windows() -> SlidingWindowInferer:
    return SlidingWindowInferer((8, 8), overlap=0.5)


@pytest.fixture
def network_of(family, tmp_path):
    """Makes a `SubnetNetwork` with the family's weights loaded, in evaluation mode."""

    def make(**choice):
        network = SubnetNetwork(
            family.architecture,
            family.space,
            table=tmp_path / "subnets.jsonl",
            statistics=tmp_path / "statistics.pth",
            **choice,
        )
        network.load_state_dict(family.state)
        return network.eval()

    return make


@pytest.fixture
def sweep(family, evaluation, tmp_path):
    """Runs subnets by the handler, which writes table and statistics."""

    def run(subnets=SUBNETS, **choice):
        run = evaluation(family, [])
        SubnetSamplingHandler(
            run.evaluator.network,
            (1, 8, 8),
            choice=SubnetChoice(subnets, **choice),
            table=tmp_path / "subnets.jsonl",
            calibration=family.calibration,
            statistics=tmp_path / "statistics.pth" if family.calibration is not None else None,
        ).attach(run.evaluator)
        run.evaluator.run()
        return run

    return run


def test_three_ways_to_choose_a_subnet_are_one(family, sweep, network_of):
    """Bitwise; the state that is loaded has another subnet active."""
    outputs = sweep().outputs
    chooser = network_of()
    for subnet, handler in zip(SUBNETS, outputs, strict=True):
        network, inferer = network_of(subnet=subnet), SubnetInferer(windows(), subnet=subnet)
        for batch, theirs in zip(family.data, handler, strict=True):
            with torch.no_grad():
                assert torch.equal(windows()(batch["image"], network), theirs)
                assert torch.equal(inferer(batch["image"], chooser), theirs)
    assert len({outputs[i][0].sum().item() for i in range(len(SUBNETS))}) == len(SUBNETS)


def test_a_budget_is_the_same_choice_three_times(family, sweep, network_of, evaluation, tmp_path):
    sweep()
    rows = sorted(read_rows(tmp_path / "subnets.jsonl"), key=lambda row: row["latency_ms"])
    for row in rows[1:]:
        budget = row["latency_ms"]
        handler = SubnetSamplingHandler(
            family.supernet(), (1, 8, 8), choice=SubnetChoice(max_latency_ms=budget), calibration=family.calibration
        )
        known = [known for known in rows if known["latency_ms"] <= budget]
        best = max(known, key=lambda known: known["score"])
        network = network_of(max_latency_ms=budget)
        (chosen,) = handler.choice(None, rows)
        assert chosen == (best["name"], network.active)
        chooser = network_of()
        SubnetInferer(SimpleInferer(), max_latency_ms=budget)(X, chooser)
        assert chooser.active == network.active


def test_whatever_a_state_runs_the_network_runs_its_own_choice(family, sweep, network_of):
    sweep()
    network = network_of(subnet=SUBNETS[2])
    assert network.active == family.space.parse(SUBNETS[2])
    for subnet in SUBNETS:
        other = family.supernet()
        other.activate(family.space.parse(subnet))
        network.load_state_dict(other.state_dict())
        assert network.active == family.space.parse(SUBNETS[2])


def test_its_state_is_a_supernets(family, sweep, network_of):
    sweep()
    network = network_of(subnet=SUBNETS[3])
    state = network.state_dict()
    assert state.keys() == family.state.keys()
    supernet = Supernet(family.architecture, family.space)
    supernet.load_state_dict(state)
    assert digest(supernet) == digest(family.supernet())


def test_what_is_extracted_is_what_is_run(sweep, network_of):
    sweep()
    for subnet in SUBNETS:
        network = network_of(subnet=subnet)
        with torch.no_grad():
            assert torch.equal(network.extract(network.active)(X), network(X))
            assert torch.equal(copy.deepcopy(network)(X), network(X))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")
def test_its_subnet_can_be_traced_and_exported(sweep, network_of):
    """What MONAI's `ckpt_export` and `onnx_export` do; a trace is of one input size."""
    sweep()
    for subnet in SUBNETS:
        network = network_of(subnet=subnet)
        with torch.no_grad():
            expected = network(X)
            for exported in (torch.jit.trace(network, X), torch.export.export(network, (X,)).module()):
                torch.testing.assert_close(exported(X), expected)
                assert not torch.allclose(exported(-X), expected)
                torch.testing.assert_close(exported(-X), network(-X))


def test_the_inferer_chooses_at_every_call(family, sweep, network_of):
    sweep()
    network = network_of()
    subnets = [SUBNETS[i] for i in (1, 1, 0, 3, 1)]
    with torch.no_grad():
        outputs = [SubnetInferer(SimpleInferer(), subnet)(X, network) for subnet in subnets]
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[4])
        assert not torch.equal(outputs[2], outputs[3])
    assert network.active == family.space.smallest()


def test_the_inferer_leaves_another_network_as_it_is(plain_family):
    supernet = plain_family.supernet()
    before = supernet.active
    with torch.no_grad():
        assert torch.equal(SubnetInferer(SimpleInferer(), "largest")(X, supernet), supernet(X))
    assert supernet.active == before


def test_a_name_of_the_table_is_known(family, sweep, network_of):
    """`middle` depends on the size of the images, which a network does not know."""
    middle = sweep(["smallest", "middle", "largest"]).networks[1]
    network = network_of(subnet="middle")
    with torch.no_grad():
        assert torch.equal(network(X), middle(X))


def test_an_unknown_subnet_is_refused(plain_family):
    for name in ("middle", "tiny", "d9-w1-k3-r1"):
        with pytest.raises(ValueError, match=f"'{name}'|depth 9"):
            SubnetNetwork(plain_family.architecture, plain_family.space, subnet=name)
    network = SubnetNetwork(plain_family.architecture, plain_family.space)
    with pytest.raises(ValueError, match="'tiny'"):
        SubnetInferer(SimpleInferer(), "tiny")(X, network)
    assert network.active == plain_family.space.largest()


def test_a_budget_may_choose_a_subnet_of_the_space_that_the_weights_bring(family, sweep, tmp_path):
    """As after a training in another space than that of the configuration."""
    sweep(SUBNETS[2:])
    rows = read_rows(tmp_path / "subnets.jsonl")
    files = {"table": tmp_path / "subnets.jsonl", "statistics": tmp_path / "statistics.pth"}
    other = family.space.restrict(depth=(2,), width=(0.5,))
    network = SubnetNetwork(family.architecture, other, max_latency_ms=1e6, **files)
    network.load_state_dict(family.state)
    assert network.active.to_dict() == max(rows, key=lambda row: row["score"])["config"]


def test_a_budget_needs_a_table(plain_family):
    with pytest.raises(ValueError, match="no subnet is known yet, so none can be chosen by max_latency_ms 5"):
        SubnetNetwork(plain_family.architecture, plain_family.space, max_latency_ms=5)
    for none in (0, None):
        network = SubnetNetwork(plain_family.architecture, plain_family.space, max_latency_ms=none)
        assert network.active == plain_family.space.largest()


def test_a_budget_below_the_fastest_is_refused(family, sweep, network_of):
    sweep()
    with pytest.raises(ValueError, match=r"no known subnet has a latency <= 1e-06 ms; the fastest, \S+, takes \S+ ms"):
        network_of(max_latency_ms=1e-6)


def test_rows_of_other_weights_do_not_count(plain_family, evaluation, tmp_path):
    table = tmp_path / "subnets.jsonl"
    run = evaluation(plain_family, [])
    SubnetSamplingHandler(run.evaluator.network, (1, 8, 8), table=table).attach(run.evaluator)
    run.evaluator.run()
    network = SubnetNetwork(plain_family.architecture, plain_family.space, max_latency_ms=1e6, table=table)
    network.load_state_dict(plain_family.state)
    others = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in plain_family.state.items()}
    with pytest.raises(ValueError, match="no subnet is known yet"):
        network.load_state_dict(others)


def test_a_subnet_without_statistics_of_its_own_is_refused(family_of, tmp_path):
    family, path = family_of("batch"), tmp_path / "statistics.pth"
    network = SubnetNetwork(family.architecture, family.space, subnet="smallest", statistics=path)
    with pytest.raises(ValueError, match=f"subnet smallest has no normalisation statistics of its own in {path}; .*"):
        network.load_state_dict(family.state)
    smallest = family.space.smallest()
    buffers = dict(family.supernet().extract(smallest).network.named_buffers())
    write_statistics({smallest: buffers}, path, digest(family.supernet()))
    network.load_state_dict(family.state)
    with pytest.raises(ValueError, match="subnet largest has no normalisation statistics"):
        network.choose("largest")
    assert network.active == smallest
    write_statistics({smallest: buffers}, path, "other weights")
    with pytest.raises(ValueError, match="subnet smallest has no normalisation statistics"):
        network.load_state_dict(family.state)


def test_aliases_of_a_network_are_one(family_of, evaluation, tmp_path):
    """Widths that round to the same channels; their canonical width is in no space."""
    space = SearchSpace(3, (1,), (0.45, 0.55, 1), (3,), groups=unet_groups(2))
    family = family_of("batch", space)
    table, statistics = tmp_path / "subnets.jsonl", tmp_path / "statistics.pth"
    first, second = "d1-w.45-k3-r1", "d1-w.55-k3-r1"
    run = evaluation(family, [])
    SubnetSamplingHandler(
        run.evaluator.network,
        (1, 8, 8),
        choice=SubnetChoice([first, second]),
        table=table,
        calibration=family.calibration,
        statistics=statistics,
    ).attach(run.evaluator)
    run.evaluator.run()
    assert len(run.epochs) == len(read_rows(table)) == 1
    canonical = read_rows(table)[0]["key"]
    assert canonical not in (first, second)
    for choice in ({"subnet": first}, {"subnet": second}, {"subnet": canonical}, {"max_latency_ms": 1e6}):
        network = SubnetNetwork(family.architecture, space, table=table, statistics=statistics, **choice)
        network.load_state_dict(family.state)
        with torch.no_grad():
            assert torch.equal(network.eval()(X), run.networks[0](X))
