"""Statistics of subnets in a file belong to weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.elastic import Supernet
from prox_monai.integrations.monai.statistics import digest, read_statistics, write_statistics


@pytest.fixture
def batch_family(family_of):
    return family_of("batch")


def test_what_is_written_is_read(batch_family, tmp_path):
    path = tmp_path / "new" / "folder" / "statistics.pth"
    space = batch_family.space
    written = {
        space.smallest(): {"mean": torch.rand(3), "count": torch.tensor(4)},
        space.largest(): {"mean": torch.rand(5), "count": torch.tensor(1)},
    }
    write_statistics(written, path, "model")
    read = read_statistics(path, "model")
    assert read.keys() == written.keys()
    for config, buffers in written.items():
        assert all(torch.equal(read[config][name], buffer) for name, buffer in buffers.items())
    assert {file.name for file in path.parent.iterdir()} - {".statistics.pth.lock"} == {"statistics.pth"}
    more = {space.smallest(): written[space.largest()]}
    write_statistics(more, path, "model")
    assert read_statistics(path, "model").keys() == written.keys()
    assert read_statistics(path, "model")[space.smallest()].keys() == more[space.smallest()].keys()


def test_what_was_written_is_not_read_again(batch_family, tmp_path, monkeypatch):
    supernet = batch_family.supernet()
    path, config = tmp_path / "statistics.pth", supernet.space.smallest()
    write_statistics({config: {"mean": torch.zeros(2)}}, path, "model")
    monkeypatch.setattr(torch, "load", None)
    write_statistics({supernet.space.largest(): {"mean": torch.ones(2)}}, path, "model")
    assert set(read_statistics(path, "model")) == {config, supernet.space.largest()}


def test_statistics_of_other_weights_do_not_count(batch_family, tmp_path):
    path = tmp_path / "statistics.pth"
    assert read_statistics(path, "model") == {}
    write_statistics({batch_family.space.largest(): {}}, path, "model")
    assert read_statistics(path, "another") == {}


def test_a_write_that_fails_leaves_the_old_file(batch_family, tmp_path, monkeypatch):
    path = tmp_path / "statistics.pth"
    write_statistics({batch_family.space.largest(): {}}, path, "model")

    def fail(content, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_statistics({}, path, "model")
    assert set(read_statistics(path, "model")) == {batch_family.space.largest()}


def test_the_digest_is_of_the_weights_whatever_is_active(batch_family):
    supernet = batch_family.supernet()
    before = digest(supernet)
    supernet.activate(batch_family.space.largest())
    assert digest(supernet) == before == digest(batch_family.supernet())
    assert len(before) == 64


def test_the_digest_tells_every_tensor_and_the_space(batch_family):
    reference = digest(batch_family.supernet())
    for kind in ("parameters", "buffers"):
        for index in range(len(list(getattr(batch_family.supernet(), kind)()))):
            supernet = batch_family.supernet()
            with torch.no_grad():
                list(getattr(supernet, kind)())[index].add_(1)
            assert digest(supernet) != reference
    space = batch_family.space
    torch.manual_seed(0)
    larger = Supernet(batch_family.architecture, space)
    torch.manual_seed(0)
    smaller = Supernet(batch_family.architecture, space.restrict(resolution=(1,)))
    assert [name for name, _ in larger.named_parameters()] == [name for name, _ in smaller.named_parameters()]
    assert digest(larger) != digest(smaller)
