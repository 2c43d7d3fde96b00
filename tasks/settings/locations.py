"""The files and folders that settings name: made absolute, and refused where the system cannot look them up."""

import errno
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from tasks.settings.schema import Config

NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}  # told by what needs the file

NAME_BYTES = 255  # of one name in a path, on every usual file system


def make_absolute(config: Config, *, workdir: Path, artifacts: Path) -> list[str]:
    """Let all paths of a configuration start from `workdir`, those of artifacts from `artifacts`.

    Returns:
        A problem, in one line, for each name that no file can have here.
    """
    model, problems = config.model, list[str]()

    def absolute(setting: str, name: str, folder: Path = workdir) -> str:
        expanded = os.path.expanduser(name)  # noqa: PTH111 - a Path forgets that the name began with ./
        if expanded.startswith("~"):
            user, here = expanded[1:].partition("/")[0], shlex.quote(f"./{name}")
            problems.append(
                f"{setting}={name}: there is no user {user}; for a file or folder of this name, write {here}"
            )
        problems.extend(_problems(setting, name, folder / expanded))
        return str(folder / expanded)

    config.artifacts = absolute("artifacts", config.artifacts, artifacts)
    if config.tensorrt.timing_cache is not None:
        config.tensorrt.timing_cache = absolute("tensorrt.timing_cache", config.tensorrt.timing_cache)
    closed: list[str] = []
    if (folder_name := model.dir) is not None:
        model.dir = absolute("model.dir", folder_name)
        closed = list(_problems("model.dir", folder_name, Path(model.dir) / "any"))
    for part, folder in model.checkpoints.items():
        if folder is not None:
            model.checkpoints[part] = absolute(f"model.checkpoints.{part}", folder)
    for key, component in model.components.items():
        where = f"model.components.{key}.recordings"
        component.recordings = [absolute(f"{where}[{n}]", file) for n, file in enumerate(component.recordings)]
    if closed:  # one line for the folder, not one for each file
        return list(dict.fromkeys([*problems, *closed]))
    for setting, file in _files_of_the_folder(config):
        problems.extend(_problems(setting, file, Path(model.dir or "") / file))
    return problems


def _files_of_the_folder(config: Config) -> Iterator[tuple[str, str]]:
    yield "model.config", config.model.config
    for part, file in config.model.parts.items():
        yield f"model.parts.{part}", file
    for key, component in config.model.components.items():
        for name, file in component.files.items():
            yield f"model.components.{key}.files.{name}", file


def _problems(setting: str, name: str, path: Path) -> Iterator[str]:
    if not name:
        yield f"{setting}: is empty; name a file or folder"
    try:
        if any(len(os.fsencode(part)) > NAME_BYTES for part in path.parts):
            raise OSError(
                errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)
            )  # also where the folders are not there yet
        path.stat()
    except OSError as error:
        if error.errno not in NOT_THERE:
            remedy = "; check the permissions" if isinstance(error, PermissionError) else ""
            yield f"{setting}={name}: {error.strerror}{remedy}"
    except ValueError as error:  # it cannot be written in the system's encoding
        yield f"{setting}={name}: {error}"
