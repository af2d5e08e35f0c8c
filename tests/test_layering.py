"""The direction of imports, read from the source: every package imports only the layers below it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prox_monai"

SUPERNETS = {"space", "networks", "elastic", "training", "evaluation"}
RESULTS = {"search", "export", "report"}
BELOW_HOSTS = {"", *SUPERNETS, *RESULTS, "data", "plugin_files"}
INTEGRATIONS = {"integrations.nnunet", "integrations.monai", "integrations.auto3dseg"}

# part of the package ("" is the package itself) -> the other parts it may import
LAYERS = {
    "space": set(),
    "networks": {"space"},
    "elastic": {"space"},
    "training": {"space", "networks", "elastic"},
    "evaluation": {"space", "networks", "elastic"},
    "search": SUPERNETS,
    "export": SUPERNETS,
    "report": SUPERNETS | {"search", "data", ""},
    "data": set(),
    "plugin_files": set(),
    "integrations": set(),
    "integrations.nnunet": BELOW_HOSTS,
    "integrations.monai": BELOW_HOSTS,
    "integrations.auto3dseg": BELOW_HOSTS | {"integrations.monai"},
    "doctor": {"plugin_files", "integrations.nnunet"},
    "demo": BELOW_HOSTS | {"integrations.nnunet"},
    "commands": BELOW_HOSTS | INTEGRATIONS | {"doctor", "demo"},
    "cli": {"commands", ""},
    "": SUPERNETS,
}

# Third-party packages that are hosts or formats; the parts that may import them at the top of a module,
# and those that may import them where they are used, inside a function.
NNUNET = {"nnunetv2", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures", "acvl_utils"}
MONAI = {"monai", "ignite"}
FORMATS = {"onnx", "onnxscript", "onnxruntime", "openvino", "nncf"}
HOSTS = NNUNET | MONAI | FORMATS | {"optuna"}
AT_TOP = {"integrations.nnunet": NNUNET, "integrations.monai": MONAI, "integrations.auto3dseg": MONAI}
INSIDE = {
    "data": {"monai"},
    "evaluation": {"monai"},
    "search": {"optuna"},
    "export": FORMATS,
    "integrations.nnunet": FORMATS,
    "commands": HOSTS,
    "doctor": HOSTS,
    "demo": HOSTS,
}

# The module of one host's part that writes for another host, and may import it inside a function.
BETWEEN = {"prox_monai.integrations.nnunet.bundle": {"monai"}}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it stands in, the module it names, whether it does not run on import."""

    module: str
    target: str
    inside: bool


def imports_of(source: str, module: str, package: str) -> Iterator[Import]:
    """All imports of a module; a name taken from a package is read as a module of it."""
    tree = ast.parse(source)
    late = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.If))]
    inside = {id(node) for block in late if not isinstance(block, ast.If) or _typing(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(module, target, id(node) in inside) for target in targets)


def _typing(block: ast.If) -> bool:
    """Whether it is ``if TYPE_CHECKING``, which does not run."""
    return isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"


def part_of(module: str) -> str:
    """The part of the package that a dotted name lies in: ``prox_monai.space.subnet`` is in ``space``."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in (2, 1)]
    return next((name for name in names if name in LAYERS), "")


def all_imports() -> list[Import]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["prox_monai", *path.relative_to(PACKAGE).with_suffix("").parts]
        package = ".".join(parts[:-1])
        module = package if parts[-1] == "__init__" else ".".join(parts)
        found += imports_of(path.read_text(encoding="utf-8"), module, package)
    return found


def upward(found: list[Import]) -> list[str]:
    """Imports of a part that is not below the importing one."""
    ours = [item for item in found if item.target.split(".")[0] == "prox_monai"]
    pairs = [(item, part_of(item.module), part_of(item.target)) for item in ours]
    return [f"{i.module} imports {i.target}" for i, own, other in pairs if other not in {own, *LAYERS[own]}]


def strangers(found: list[Import]) -> list[str]:
    """Imports of a host by a part that must not know it, or not at the top of a module."""
    wrong = []
    for item in found:
        host, part = item.target.split(".")[0], part_of(item.module)
        inside = INSIDE.get(part, set()) | BETWEEN.get(item.module, set())
        known = AT_TOP.get(part, set()) | (inside if item.inside else set())
        if host in HOSTS - known:
            wrong.append(f"{item.module} imports {item.target}")
    return wrong


def test_every_module_has_a_layer():
    modules = {path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    unplaced = {".".join(parts) for parts in modules if not part_of(".".join(("prox_monai", *parts)))}
    assert unplaced == {"__init__"}, "give the new module a place in LAYERS"


def test_imports_point_downward():
    assert upward(all_imports()) == []


def test_hosts_are_imported_where_they_belong():
    assert strangers(all_imports()) == []


def test_space_needs_the_standard_library_only():
    found = {i.target.split(".")[0] for i in all_imports() if part_of(i.module) == "space"}
    assert found - {"prox_monai"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("module", "source", "check"),
    [
        ("prox_monai.elastic.shells", "from prox_monai.networks import UNet", upward),
        ("prox_monai.elastic.shells", "from prox_monai import networks", upward),
        ("prox_monai.elastic.shells", "from ..networks.unet import UNet", upward),
        ("prox_monai.elastic.shells", "def f():\n    import prox_monai.training", upward),
        ("prox_monai.space.subnet", "from prox_monai import Supernet", upward),
        ("prox_monai.integrations.nnunet.trainer", "import prox_monai.integrations.monai.handler", upward),
        ("prox_monai.training.progressive", "import nnunetv2", strangers),
        ("prox_monai.cli", "def f():\n    import monai", strangers),
        ("prox_monai.commands.monai", "from monai.apps import download_and_extract", strangers),
        ("prox_monai.integrations.nnunet.trainer", "def f():\n    import monai", strangers),
    ],
)
def test_the_checks_see_what_is_forbidden(module, source, check):
    assert len(check(list(imports_of(source, module, module.rpartition(".")[0])))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "prox_monai.integrations.auto3dseg",
            "from prox_monai.integrations.monai import handler\nimport monai",
        ),
        (
            "prox_monai.commands.nnunet",
            "def f():\n    import nnunetv2\n    from prox_monai.integrations.nnunet import trainer",
        ),
        (
            "prox_monai.training.progressive",
            "from prox_monai.elastic import Supernet\nfrom . import freezing",
        ),
    ],
)
def test_the_checks_let_pass_what_is_allowed(module, source):
    found = list(imports_of(source, module, module.rpartition(".")[0]))
    assert found
    assert upward(found) + strangers(found) == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import prox_monai", {*HOSTS, "torch", "numpy"}),
        ("import prox_monai.space", {*HOSTS, "torch", "numpy"}),
        ("import prox_monai.cli", {*HOSTS, "torch", "numpy"}),
        ("from prox_monai import *", HOSTS),
    ],
)
def test_import_loads_no_more_than_it_needs(statement, absent):
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert absent.isdisjoint(json.loads(done.stdout))


ONLY_TORCH = """
import sys
from importlib import import_module, metadata

def closure(name, seen):
    if name not in seen:
        seen.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                closure(canonicalize_name(requirement.name), seen)
    return seen

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is no dependency of torch", name=name)

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
allowed = closure("torch", set()) | {"prox-monai"}
blocked = {
    module for module, names in metadata.packages_distributions().items()
    if not {canonicalize_name(name) for name in names} & allowed and module not in sys.stdlib_module_names
}
sys.meta_path.insert(0, Blocker())
for module in sys.argv[1:]:
    import_module(module)
"""


def test_torch_alone_is_enough_below_the_hosts():
    """The only dependency is torch: all other packages are hidden, and every module still imports."""
    parts = ("space", "networks", "elastic", "training", "evaluation")
    paths = [path for part in parts for path in sorted((PACKAGE / part).glob("*.py")) if path.stem != "__init__"]
    modules = [f"prox_monai.{path.parent.name}.{path.stem}" for path in paths]
    command = [sys.executable, "-c", ONLY_TORCH, "prox_monai.cli", "prox_monai.doctor", *modules]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
