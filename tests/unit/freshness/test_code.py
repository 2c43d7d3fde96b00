"""Which modules shaped an artifact: observed while the action ran, and compared at the next decision."""

import os
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tasks.freshness import code
from tasks.freshness.code import EDITED, code_digests, used_modules
from tasks.freshness.digests import Digests

FILES = {
    "__init__.py": '"""A user\'s package."""\n',
    "action.py": (
        "from importlib import import_module\n\nfrom tasks.errors import UserError\n{imports}\n\n"
        "def run(name=''):\n    return import_module(name) if name else UserError\n"
    ),
    "layer.py": '"""A layer."""\n\nfrom . import base\n\n\nclass Layer:\n    size = 1\n',
    "base.py": "WIDTH = 4\n",
    "other.py": "WIDTH = 5\n",
}


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package of the user's own, which lies outside of this project; each test has its own."""
    name = f"users_package_{abs(hash(request.node.name))}"
    folder = tmp_path / name
    folder.mkdir()
    for file, text in FILES.items():
        (folder / file).write_text(text.replace("{imports}", f"from {name}.layer import Layer  # noqa"))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def used_by(package: str, folder: Path, *, before: set[str], named: tuple[str, ...] = (), run: str = "") -> list[str]:
    import_module(f"{package}.action").run(run)
    digests = Digests(folder / "memo.json")
    return used_modules(f"{package}.action:run", before=before, named=named, digests=digests)


def of(package: str, *modules: str) -> list[str]:
    return sorted([package, *(f"{package}.{module}" for module in modules)])


def test_what_an_action_imports_is_used_also_in_the_users_own_package(package: str, tmp_path: Path) -> None:
    assert used_by(package, tmp_path, before=set(sys.modules)) == of(package, "action", "layer", "base")


def test_what_it_imports_by_name_while_it_runs_is_used(package: str, tmp_path: Path) -> None:
    found = used_by(package, tmp_path, before=set(sys.modules), run=f"{package}.other")
    assert found == of(package, "action", "layer", "base", "other")


def test_what_a_warm_process_had_loaded_counts_only_if_the_action_uses_it(package: str, tmp_path: Path) -> None:
    for module in ("layer", "other"):
        import_module(f"{package}.{module}")
    found = used_by(package, tmp_path, before=set(sys.modules))
    assert found == of(package, "action", "layer", "base")


def test_an_object_that_was_loaded_by_name_counts_though_a_warm_process_had_it(package: str, tmp_path: Path) -> None:
    import_module(f"{package}.other")
    found = used_by(package, tmp_path, before=set(sys.modules), named=(f"{package}.other",))
    assert found == of(package, "action", "layer", "base", "other")


def test_a_users_package_counts_also_where_libraries_are_installed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = (tmp_path, *code._library_folders())
    monkeypatch.setattr(code, "_library_folders", lambda: folders)
    assert used_by(package, tmp_path, before=set(sys.modules)) == of(package, "action", "layer", "base")
    named = used_modules("tasks.actions.x:run", before=set(sys.modules), named=(), digests=Digests(tmp_path / "memo"))
    assert not [module for module in named if module.startswith(package)]
    named = used_modules(
        "tasks.actions.x:run", before=set(sys.modules), named=(f"{package}.layer",), digests=Digests(tmp_path / "memo")
    )
    assert named == of(package, "layer", "base")


def test_a_module_that_was_looked_for_in_vain_counts_once_it_is_there(package: str, tmp_path: Path) -> None:
    text = "try:\n    from . import tuned\nexcept ImportError:\n    tuned = None\nfrom . import __name__ as _\n"
    (tmp_path / package / "base.py").write_text(text)
    found = used_by(package, tmp_path, before=set(sys.modules))
    assert found == of(package, "action", "layer", "base", "tuned")
    before = code_digests(found, Digests(tmp_path / "memo.json"))
    (tmp_path / package / "tuned.py").write_text("WIDTH = 9\n")
    code._place.cache_clear()  # as in the next run
    assert code_digests(found, Digests(tmp_path / "memo.json")) != before


def test_a_package_without_code_counts_once_it_has_some(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "__init__.py").unlink()
    found = used_by(package, tmp_path, before=set(sys.modules))
    assert found == of(package, "action", "layer", "base")
    before = code_digests(found, Digests(tmp_path / "memo.json"))
    (tmp_path / package / "__init__.py").write_text("WIDTH = 9\n")
    code._place.cache_clear()
    assert code_digests(found, Digests(tmp_path / "memo.json")) != before


def test_neither_libraries_nor_house_keeping_are_listed(package: str, tmp_path: Path) -> None:
    found = used_by(package, tmp_path, before=set())
    assert "tasks.errors" not in found
    assert not [module for module in found if module.split(".")[0] in {"pytest", "importlib", "pathlib", "torch"}]


@pytest.mark.parametrize(
    "text",
    [
        '"""Another docstring."""\n\nfrom . import base\n\n\nclass Layer:\n    size = 1\n',
        '# a comment\nfrom . import base\n\n\nclass Layer:\n    """Now with words."""\n\n    size = 1  # one\n',
    ],
)
def test_comments_and_docstrings_do_not_count(package: str, tmp_path: Path, text: str) -> None:
    modules, digests = of(package, "layer"), Digests(tmp_path / "memo.json")
    before = code_digests(modules, digests)
    (tmp_path / package / "layer.py").write_text(text)
    assert code_digests(modules, digests) == before


def test_a_changed_comment_on_types_counts(package: str, tmp_path: Path) -> None:
    digests = Digests(tmp_path / "memo.json")
    found = []
    for type_ in ("int", "float", "no (type"):
        text = f"def layer(x, n):\n    # type: (Tensor, {type_}) -> Tensor\n    return x\n"
        (tmp_path / package / "base.py").write_text(text)
        found.append(code_digests([f"{package}.base"], digests)[f"{package}.base"])
    assert len(set(found)) == 3


def test_a_changed_statement_counts(package: str, tmp_path: Path) -> None:
    modules, digests = of(package, "layer", "base"), Digests(tmp_path / "memo.json")
    before = code_digests(modules, digests)
    (tmp_path / package / "base.py").write_text("WIDTH = 6\n")
    after = code_digests(modules, digests)
    assert [module for module in modules if before[module] != after[module]] == [f"{package}.base"]


def test_a_changed_table_beside_a_module_counts_as_its_code(package: str, tmp_path: Path) -> None:
    table, modules = tmp_path / package / "base.json", of(package, "layer", "base")
    table.write_text("[1]")
    before = code_digests(modules, Digests(tmp_path / "memo.json"))
    table.write_text("[2]")
    after = code_digests(modules, Digests(tmp_path / "memo.json"))
    assert [module for module in modules if before[module] != after[module]] == [f"{package}.base"]


def test_a_module_that_is_gone_counts_as_changed(package: str, tmp_path: Path) -> None:
    digests = Digests(tmp_path / "memo.json")
    before = code_digests([f"{package}.base"], digests)
    (tmp_path / package / "base.py").unlink()
    code._place.cache_clear()  # as in the next run
    assert code_digests([f"{package}.base"], digests) != before


@pytest.mark.parametrize("modified", [None, 1e9], ids=["written", "moved there"])
def test_a_file_that_was_edited_while_the_step_ran_may_not_be_what_was_imported(
    package: str, tmp_path: Path, modified: float | None
) -> None:
    started = time.time() - 1
    (tmp_path / package / "base.py").write_text("WIDTH = 6\n")
    if modified:
        os.utime(tmp_path / package / "base.py", (modified, modified))
    found = code_digests([f"{package}.base"], Digests(tmp_path / "memo.json"), newest=started)
    assert found == {f"{package}.base": EDITED}
