"""The rules of the house: which room may import which, held by the syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY_LIBRARIES = {"torch", "onnx", "onnxruntime", "onnxscript", "onnxslim", "numpy", "tensorrt", "transformers"}
FORBIDDEN_NAMES = {"onnx.py", "torch.py", "tensorrt.py"}

# What each room may import beside itself and the leaves. The order is that of the floors, lowest first.
LEAVES = {"errors", "paths", "plain_data", "job", "progress", "checkpoints", "objects", "sidecar", "user_files"}
LIGHT: dict[str, set[str]] = {
    "settings": set(),
    "machine": set(),
    "cache": set(),
    "pipeline": {"settings"},
    "freshness": {"pipeline"},
    "child": {"freshness"},
    "workflow": {"settings", "machine", "cache", "pipeline", "freshness", "child"},
}
HEAVY: dict[str, set[str]] = {
    "models": {"settings"},
    "runtimes": {"settings"},
    "training": {"settings", "models", "runtimes"},
    "speech": {"settings", "models", "runtimes"},
    "actions": {"settings", "machine", "models", "runtimes", "training", "speech"},
}
MOST_FILES = {"tasks": 10, "tasks/actions": 12, "tasks/models/cosyvoice": 10}


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def starting_with(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if any(name == p or name.startswith(f"{p}.") for p in packages)}


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("tasks.")}


def files_of(room: str) -> list[Path]:
    return sorted(ROOT.glob(f"tasks/{room}/**/*.py")) or [ROOT / "tasks" / f"{room}.py"]


def packages_importing() -> Iterator[tuple[str, str]]:
    """Which package imports from which, for every package under tasks/."""
    packages = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("tasks/**/*.py")}
    for path in ROOT.glob("tasks/**/*.py"):
        importer = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for name in imported(path):
            module = next((p for p in (name, name.rpartition(".")[0], name.rpartition(".")[0].rpartition(".")[0])
                           if (ROOT / (p.replace(".", "/") + ".py")).is_file()), "")  # fmt: skip
            package = module.rpartition(".")[0]
            if package in packages and package != importer:
                yield importer, package


@pytest.mark.parametrize("room", [*LIGHT, *HEAVY])
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    allowed = {room} | LEAVES | (LIGHT | HEAVY)[room]
    for path in files_of(room):
        assert rooms_imported(path) <= allowed, path


def test_leaves_import_only_leaves() -> None:
    for leaf in LEAVES:
        for path in files_of(leaf):
            assert not path.is_file() or rooms_imported(path) <= LEAVES, path


def test_every_room_has_its_rule_and_says_what_belongs_there() -> None:
    rooms = {path.parent.name for path in ROOT.glob("tasks/*/__init__.py")}
    assert rooms == {*LIGHT, *HEAVY}
    for path in ROOT.glob("tasks/**/__init__.py"):
        assert [type(node) for node in ast.parse(path.read_text()).body] == [ast.Expr], path


@pytest.mark.parametrize("room", [*LIGHT, *sorted(LEAVES)])
def test_the_light_floor_never_imports_heavy_libraries(room: str) -> None:
    for path in files_of(room):
        if path.is_file():
            assert not starting_with(imported(path), *HEAVY_LIBRARIES), path


def test_the_heavy_floor_does_not_know_doit_or_hydra() -> None:
    for path in (path for room in HEAVY for path in files_of(room)):
        assert not starting_with(imported(path), "doit", "hydra", "omegaconf"), path


def test_no_packages_import_each_other_in_a_circle() -> None:
    arrows: dict[str, set[str]] = {}
    for importer, package in packages_importing():
        arrows.setdefault(importer, set()).add(package)
    for start, imported_by_it in arrows.items():
        seen: set[str] = set()
        waiting = set(imported_by_it)
        while waiting:
            package = waiting.pop()
            seen.add(package)
            waiting |= arrows.get(package, set()) - seen
        assert start not in seen, f"{start} is imported by what it imports: {sorted(seen)}"


@pytest.mark.parametrize("folder", MOST_FILES)
def test_no_room_is_a_heap_of_files(folder: str) -> None:
    assert len(list((ROOT / folder).glob("*.py"))) <= MOST_FILES[folder]


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
