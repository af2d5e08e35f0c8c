"""The model zoo's own steps on each bundle, with the wheel in an environment in which this checkout is not to be seen.

The steps are those of the zoo's pre-merge check: pinned requirements, files, change log, metadata against the schema,
required properties, input and output of the network, export of a checkpoint to TorchScript.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "jsonschema", "build")):
    pytest.skip(
        'needs MONAI and the tools of development: pip install "prox-monai[monai,dev]"', allow_module_level=True
    )

import prox_monai

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.name for path in (ROOT / "bundles").iterdir() if path.is_dir())

CHECK = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
import prox_monai
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from prox_monai.elastic.resolution import without_resolution
from prox_monai.integrations.monai.statistics import digest, write_statistics

bundle, schema, environment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
assert Path(prox_monai.__file__).is_relative_to(environment)
configs = bundle / "configs"
meta, inference = str(configs / "metadata.json"), str(configs / "inference.json")
metadata = json.loads(Path(meta).read_text())
assert metadata["version"] in metadata["changelog"]
if schema:
    verify_metadata(meta_file=meta, filepath=schema)
for kind, file in (("train", "train.json"), ("infer", "inference.json")):
    workflow = ConfigWorkflow(workflow_type=kind, config_file=str(configs / file), meta_file=meta)
    workflow.parser.parse()
    for name, item in workflow.properties.items():
        if item["required"]:
            assert item["id"] in workflow.parser, (kind, name)
verify_net_in_out(net_id="network_def", meta_file=meta, config_file=inference)
parser = ConfigParser()
parser.read_config(inference)
network = parser.get_parsed_content("network_def")
torch.save(network.state_dict(), bundle / "weights.pt")
if next(network.buffers(), None) is not None:  # of BatchNorm: training writes each subnet's own statistics beside
    own = {network.active: dict(without_resolution(network.extract(network.active)).named_buffers())}
    write_statistics(own, bundle / "models" / "subnet_statistics.pth", digest(network))
image = metadata["network_data_format"]["inputs"]["image"]
size = [axis if isinstance(axis, int) else 16 for axis in image["spatial_shape"]]  # "16*n"
ckpt_export(
    net_id="network_def", filepath=str(bundle / "model.ts"), ckpt_file=str(bundle / "weights.pt"), meta_file=meta,
    config_file=inference, use_trace=True, input_shape=[1, image["num_channels"], *size],
)
x = torch.rand(1, image["num_channels"], *size)
torch.testing.assert_close(torch.jit.load(str(bundle / "model.ts"))(x), network.eval()(x), atol=1e-4, rtol=1e-4)
"""


def run(command: list[str | Path], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pin(bundle: str) -> str:
    """The requirement of a bundle for this package."""
    metadata = json.loads((ROOT / "bundles" / bundle / "configs" / "metadata.json").read_text())
    return f"prox-monai=={metadata['required_packages_version']['prox-monai']}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory) -> Path:
    """Everything that is installed here but this package, which comes from its wheel by pinned requirements."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run([*pip, "--disable-pip-version-check", "--find-links", wheels, pin(BUNDLES[0])])
    site_packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


@pytest.mark.parametrize("bundle", BUNDLES)
def test_steps_of_the_zoo(bundle, environment, tmp_path):
    copy = tmp_path / bundle
    shutil.copytree(ROOT / "bundles" / bundle, copy, ignore=shutil.ignore_patterns("models", "eval"))
    assert (copy / "LICENSE").is_file()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    schema = Path(os.environ.get("PROX_DATA") or ROOT.parent / "shared" / "data", "monai_schema")
    given = [shutil.copy(file, tmp_path) for file in schema.glob("meta_schema_20240725.json")]
    command = [environment / "bin" / "python", "-c", CHECK, copy, given[0] if given else "", environment]
    run(command, cwd=copy, env=variables | {"OMP_NUM_THREADS": "1"})
    if not given:
        pytest.skip("all but verify_metadata: the schema of the metadata is not here")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_requirements_are_all_pinned(bundle):
    metadata = json.loads((ROOT / "bundles" / bundle / "configs" / "metadata.json").read_text())
    assert pin(bundle) == f"prox-monai=={prox_monai.__version__}"
    needed = {"pytorch-ignite", "fire", "scikit-learn", "scipy", "matplotlib", "tensorboard"}
    assert needed <= set(metadata["required_packages_version"])
