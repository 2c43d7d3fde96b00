"""Finds weights that lie in a model's folder under another name: what is asked for and there is not to be skipped."""

import os.path
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tasks.errors import ConfigError
from tasks.pipeline.graph_inputs import GraphInputs
from tasks.user_files import join_pieces_command

WHOLE = r"\.(pt|pth|bin|ckpt|safetensors)"
PIECES = r"-\d+-of-\d+\.safetensors"  # weights in several files
NAMED_AT_MOST = 3


def check_parts(graphs: Iterable[GraphInputs], words: Sequence[str]) -> None:
    """A part of which the file is missing must neither have been set nor be there under a similar name.

    Args:
        words: of the command line.

    Raises:
        ConfigError: one line for each such part, with the setting that helps; where a folder has no weights at all,
            one line.
    """
    problems = [problem for given in graphs for problem in _problems(given, words)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _problems(given: GraphInputs, words: Sequence[str]) -> Iterator[str]:
    model = given.config.model
    if not model.dir or not Path(model.dir).is_dir():
        return
    files = {part: file for part, file in model.parts.items() if not given.is_averaged(part)}
    missing = {part: file for part, file in files.items() if not os.path.lexists(given.in_folder(file))}
    found = [problem for part, file in missing.items() if (problem := _problem(given, part, file, words))]
    yield from found
    if not found and len(missing) == len(model.parts) and given.model_yaml.is_file():
        remedy = "put in what is to be exported, or name a file of another name: model.parts.PART=FILE"
        yield f"model.dir={model.dir}: has no {', '.join(sorted(missing.values()))}; {remedy}"


def _problem(given: GraphInputs, part: str, file: str, words: Sequence[str]) -> str:
    """What is wrong with the missing file of a part; empty if that just means that the part is not exported."""
    folder, setting = given.in_folder(file).parent, f"model.parts.{part}"
    is_set = _is_set(part, file, words)
    stem = Path(file).stem
    whole = _matching(folder, stem, WHOLE) or (_matching(folder, part, WHOLE) if is_set else [])
    where = f"{setting}={file}: no such file in {folder}" if is_set else f"model.dir={folder}: has no {file}"
    if whole:
        choices = (f"{setting}={Path(file).with_name(name)}" for name in whole[:NAMED_AT_MOST])
        return f"{where}; there is {', '.join(whole[:NAMED_AT_MOST])}: set {' or '.join(choices)}"
    if pieces := _matching(folder, stem, PIECES):
        command = join_pieces_command(folder, stem)
        return f"{where}; there are {len(pieces)} pieces, {pieces[0]} for example. Join them, and set " + (
            f"{setting}={Path(file).with_name(f'{stem}.joined.pt')}: {command}"
        )
    return where if is_set else ""


def _is_set(part: str, file: str, words: Sequence[str]) -> bool:
    """Whether a part's file was typed, alone or with those of others."""
    return any(
        key == f"model.parts.{part}" or (key == "model.parts" and Path(file).stem in value)
        for key, _, value in (word.lstrip("+~").partition("=") for word in words)
    )


def _matching(folder: Path, stem: str, endings: str) -> list[str]:
    pattern = re.compile(re.escape(stem) + endings, re.IGNORECASE)
    try:
        return sorted(path.name for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file())
    except OSError:
        return []
