"""Imports form the layers of the design: downwards only, Gradio only in the page, nothing heavy at the start."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "softprompt_core"
LAYERS = (
    {"errors", "environment"},
    {"config", "control", "records", "visible", "templates", "files"},
    {"checkpoints"},
    {"store", "sources", "presets"},
    {"models", "data", "families", "initialisers", "plans"},
    {"encoder_decoder", "copies", "schedules", "tokenising", "trunk"},
    {"layouts"},
    {"self_check"},
    {"adapters", "soft_embedding", "methods", "optimisers", "starts", "recomputing", "cautions"},
    {"evaluation", "exports"},
    {"serving", "outcomes", "running"},     # share evaluation's layer in the design, and read its scores
    {"beginnings", "endings"},
    {"training"},
    {"inspection", "experiments", "preflight"},
    {"jobs", "operations"},
    {"studies"},        # readings made in the background, for page and command line
    {"ui"},
    {"cli"},            # shares the page's layer in the design, and starts it with `softprompt app`
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}


def modules() -> dict[str, Path]:
    """Every module of the package by its name within it; packages' empty `__init__` left out."""
    folder = ROOT / PACKAGE
    found = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in folder.rglob("*.py")}
    return {name: path for name, path in sorted(found.items()) if not name.endswith("__init__")}


def imports(path: Path) -> Iterator[str]:
    """The full name of everything that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """The file or folder directly in the package that a module belongs to."""
    return name.split(".")[0]


def own_imports(path: Path) -> Iterator[str]:
    """Names within the package that a file imports."""
    yield from (name.removeprefix(f"{PACKAGE}.") for name in imports(path) if name.startswith(f"{PACKAGE}."))


def test_every_module_has_a_layer():
    assert {part(name) for name in modules()} <= set(LEVEL)


@pytest.mark.parametrize("name", modules())
def test_module_imports_only_from_lower_layers_or_its_own_package(name):
    for imported in own_imports(modules()[name]):
        is_lower = LEVEL[part(imported)] < LEVEL[part(name)]
        assert is_lower or (part(imported) == part(name) and "." in name), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in modules() if part(name) != "ui"])
def test_only_the_page_knows_gradio(name):
    assert not [i for i in imports(modules()[name]) if i.split(".")[0] in ("gradio", "gradio_client")]


def test_modules_inside_a_package_do_not_import_in_circles():
    edges = {name: set(own_imports(path)) for name, path in modules().items()}
    known = set(edges)
    graph = {
        name: {k for k in known if k != name and any(i == k or i.startswith(f"{k}.") for i in found)}
        for name, found in edges.items()
    }
    while leaves := [name for name, needs in graph.items() if not needs]:
        graph = {name: needs - set(leaves) for name, needs in graph.items() if name not in leaves}
    assert not graph, f"these import one another: {sorted(graph)}"


def test_app_imports_nothing_of_the_package_but_the_page():
    assert {part(name) for name in own_imports(ROOT / "app.py")} == {"ui"}


def test_packages_export_nothing():
    for path in (ROOT / PACKAGE).rglob("__init__.py"):
        assert not list(imports(path)), f"{path} imports"


@pytest.mark.parametrize("module", ["config", "store", "data", "cli", "ui.launch"])
def test_importing_loads_nothing_heavy(module):
    heavy = ["torch", "transformers", "peft"] + ([] if module.startswith("ui") else ["gradio"])
    code = f"import sys, {PACKAGE}.{module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
