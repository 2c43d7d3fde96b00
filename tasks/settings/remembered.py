"""What a composition by Hydra gave, remembered by content: importing Hydra and composing takes longer than all else.

A result is used again only where Hydra would compose the same. What it depends on is either in the key, so that a
change finds nothing, or beside the result and compared with what is there now:

- in the key: the words in their order; names and bytes of all that lies under conf/; the bytes of this room and of
  the leaves of tasks/, which hold all code of ours that composes and checks (a room imports nothing else); the
  versions of Python and of what Hydra reads with; the folder of the project, which `${project:}` refers to;
- beside it: the environment variables that `${oc.env:}` looked up; the source of every Python object that a setting
  names, which is looked up on the import path.

What looks at the user's folders (`~`, whether a path can be used, the model in a folder) is not remembered, and
neither is what has problems, reads the clock, warns, or is composed with plugins of Hydra. A file that was changed just
before may be newer than the module that was imported from it, so a result that depends on one is not kept.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.objects import find_origin
from tasks.plain_data import plain
from tasks.settings import cache_folder
from tasks.settings.conf_folder import CONF, ROOT
from tasks.settings.declaration_rules import named_objects
from tasks.settings.from_plain import from_plain
from tasks.settings.schema import Config

CODE = (ROOT / "tasks" / "settings", ROOT / "tasks")  # the modules in these folders, not below them
DISTRIBUTIONS = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "pyyaml", "voxkiln")
SETTLED_SECONDS = 5.0  # from the import of a module until its bytes are in the key, also on a slow machine


def configs(words: Sequence[str]) -> list[Config] | None:
    """What these words were composed to; None where that is not known or may be something else now."""
    try:
        content = json.loads(_read("settings", words))
        found = [from_plain(Config, each) for each in content["configs"]]
        around = _surroundings(content["environment"], found)
        return found if around == {name: content[name] for name in around} else None
    except (KeyError, TypeError, ValueError, RecursionError, OSError):
        return None


def remember(words: Sequence[str], composed: Sequence[Config], *, environment: Iterable[str], began: float) -> None:
    """Keep what these words were composed to, if it can be read back exactly.

    Args:
        environment: names of the environment variables that were looked up.
        began: when composing did, in seconds since the epoch.
    """
    with contextlib.suppress(TypeError, ValueError, RecursionError, OSError):  # keys that are no text, for example
        content = _surroundings(environment, composed) | {"configs": plain(composed)}
        text = json.dumps(content)
        again = [from_plain(Config, each) for each in json.loads(text)["configs"]]
        if repr(again) == repr(composed) and _is_settled(_modules(composed).values(), began):
            _write("settings", words, text)


def from_conf(subject: str, make: Callable[[], Any]) -> Any:
    """Plain data that follows from the files under conf/ alone; `make` is called where it is not known."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(_read(subject))
    began = time.time()
    made = make()
    with contextlib.suppress(OSError):
        if _is_settled((), began):
            _write(subject, (), json.dumps(made))
    return made


def _read(subject: str, words: Sequence[str] = ()) -> str:
    key = _key(subject, words)
    return cache_folder.read(key) if key else ""


def _write(subject: str, words: Sequence[str], text: str) -> None:
    if key := _key(subject, words):
        cache_folder.write(key, text)


def _key(subject: str, words: Sequence[str]) -> str:
    """The name of an entry; empty where nothing may be remembered."""
    if find_spec("hydra_plugins"):  # they can change where Hydra looks and what it reads
        return ""
    try:
        files = {path: _digest(path) for path in _files()}
        versions = [sys.version, *map(metadata.version, DISTRIBUTIONS)]
    except (OSError, metadata.PackageNotFoundError):
        return ""
    text = json.dumps([subject, list(words), versions, str(ROOT), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _files() -> Iterator[str]:
    """All that lies under conf/, folders included, and the modules of which the code composes and checks."""
    yield str(CONF)
    yield from _below(str(CONF))
    for folder in CODE:
        yield from (entry.path for entry in os.scandir(folder) if entry.name.endswith(".py"))


def _below(folder: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        yield entry.path
        if entry.is_dir():
            yield from _below(entry.path)


def _digest(path: str) -> str:
    """Of a file's bytes; empty for a folder, and for what is neither and is never read."""
    if not os.path.isfile(path):  # noqa: PTH113 - half the time of Path's
        return ""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.sha256(file.read()).hexdigest()


def _is_settled(others: Iterable[str], began: float) -> bool:
    """Whether no file that a result depends on was changed shortly before composing began, or since."""
    paths = [Path(path) for path in (*_files(), *others)]
    newest = max(status.st_ctime for path in paths for status in (path.stat(), path.lstat()))
    return newest < began - SETTLED_SECONDS


def _surroundings(environment: Iterable[str], composed: Sequence[Config]) -> dict[str, Mapping[str, str | None]]:
    """What is compared each time: environment variables, and the sources of the objects that settings name."""
    objects = {module: f"{file} {_digest(file)}" for module, file in _modules(composed).items()}
    return {"environment": {name: os.environ.get(name) for name in environment}, "objects": objects}


def _modules(composed: Sequence[Config]) -> dict[str, str]:
    """The modules of these objects and their files; empty for one that is nowhere."""
    names = (name for config in composed for name in named_objects(config.model).values())
    return {module: find_origin(module) for module in dict.fromkeys(name.partition(":")[0] for name in names)}
