"""The rules of the house: which floor may import what, held by the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIGHT = sorted([ROOT / "dodo.py", *ROOT.glob("tasks/*.py")])
HEAVY_LIBRARIES = {"torch", "onnx", "onnxruntime", "onnxscript", "onnxslim", "numpy", "tensorrt", "transformers"}
# The child's entry: it lives on the light floor because the parent names it, and runs on the heavy one.
CHILD_ONLY = {"worker.py"}
FORBIDDEN_NAMES = {"onnx.py", "torch.py", "tensorrt.py"}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def starting_with(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if any(name == p or name.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("path", [p for p in LIGHT if p.name not in CHILD_ONLY], ids=lambda p: p.name)
def test_the_light_floor_never_imports_heavy_libraries_or_the_heavy_floor(path: Path) -> None:
    heavy = starting_with(imported(path), *HEAVY_LIBRARIES, "tasks.actions", "tasks.models", "tasks.runtimes")
    assert not heavy


@pytest.mark.parametrize("floor", ["models", "runtimes"])
def test_models_and_runtimes_import_neither_actions_nor_each_other(floor: str) -> None:
    other = {"models": "runtimes", "runtimes": "models"}[floor]
    for path in ROOT.glob(f"tasks/{floor}/**/*.py"):
        assert not starting_with(imported(path), "tasks.actions", f"tasks.{other}"), path


def test_the_heavy_floor_does_not_know_doit_hydra_or_the_declarations() -> None:
    for path in (p for floor in ("actions", "models", "runtimes") for p in ROOT.glob(f"tasks/{floor}/**/*.py")):
        assert not starting_with(imported(path), "doit", "hydra", "omegaconf", "tasks.declare", "tasks.plan"), path


def test_no_module_shadows_a_library() -> None:
    assert not [path for path in ROOT.glob("tasks/**/*.py") if path.name in FORBIDDEN_NAMES]


def test_declaring_the_workflow_leaves_the_heavy_libraries_out_of_the_process() -> None:
    code = (
        "import sys; sys.argv = ['doit', 'list']\n"
        "from doit.doit_cmd import DoitMain; DoitMain().run(['list', '--all'])\n"
        f"print('HEAVY', sorted({HEAVY_LIBRARIES!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "export_all" in done.stdout
    assert "HEAVY []" in done.stdout
