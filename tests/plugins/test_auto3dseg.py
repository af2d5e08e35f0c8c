from __future__ import annotations

import ast

import pytest

from prox_monai.plugin_files import plugin_folder

FOLDER = plugin_folder("auto3dseg") / "prox"
IMPORTS = {
    "algo": "from prox_monai.integrations.auto3dseg.algo import ProxAlgo",
    "train": "from prox_monai.integrations.auto3dseg.train import main, run",
    "validate": "from prox_monai.integrations.auto3dseg.validate import main, run",
    "infer": "from prox_monai.integrations.auto3dseg.infer import InferClass",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_script_is_one_import(name):
    """A docstring, one import from the package, its names; a script that is run calls ``main``."""
    docstring, imported, names, *rest = ast.parse((FOLDER / "scripts" / f"{name}.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(imported) == IMPORTS[name]
    assert isinstance(names, ast.Assign)
    assert [ast.unparse(each) for each in rest] == (
        ["if __name__ == '__main__':\n    main()"] if "main" in IMPORTS[name] else []
    )


def test_the_template_is_what_monai_looks_for():
    shown = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if "__pycache__" not in path.parts}
    files = {"configs/hyper_parameters.yaml", "docs/README.md", *(f"scripts/{name}.py" for name in IMPORTS)}
    assert shown == files | {"scripts/__init__.py", "configs", "docs", "scripts"}


def test_the_imports_are_there():
    pytest.importorskip("monai")
    pytest.importorskip("ignite")
    for line in IMPORTS.values():
        exec(line)
