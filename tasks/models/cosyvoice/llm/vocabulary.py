"""Explains why the rows of a vocabulary's tensors, its embedding and its head, do not fit the configuration."""

from collections.abc import Mapping, Sequence

from torch import Size


def explain_vocabulary(
    names: Sequence[str],
    given: Mapping[str, Size],
    expected: Mapping[str, Size],
    *,
    kind: str,
    setting: tuple[str, int, str],
) -> tuple[str, str]:
    """The cause and the remedy if tensors with a row for each token differ in their rows alone; else nothing.

    Args:
        names: of those tensors.
        given: shapes in the file.
        expected: shapes in the model.
        kind: of the tokens: ``"text"``.
        setting: the name of the size of the vocabulary, its value, and where it is set.
    """
    vocabulary = [name for name in expected if name.endswith(tuple(names))]
    others = [name for name in expected if name not in vocabulary]
    fit = all(name in given and given[name][1:] == expected[name][1:] and given[name] for name in vocabulary)
    if not fit or not vocabulary or any(given.get(name) != expected[name] for name in others):
        return "", ""
    added = {name: given[name][0] - expected[name][0] for name in vocabulary}
    if len(set(added.values())) > 1:
        return _different_rows(kind, given, expected, vocabulary)
    name, size, place = setting
    change, rows = added[vocabulary[0]], given[vocabulary[0]][0]
    if size + change < 1:
        return "", ""
    what = f"{change} {kind} tokens were added" if change > 0 else f"{-change} {kind} tokens are missing"
    return f"{what}: {rows} rows, {rows - change} by {place}", f"Set {name} to {size + change} in {place}"


def _different_rows(
    kind: str, given: Mapping[str, Size], expected: Mapping[str, Size], vocabulary: Sequence[str]
) -> tuple[str, str]:
    rows = [f"{name} has {given[name][0]} rows, the model {expected[name][0]}" for name in vocabulary]
    remedy = f"Resize all of these to the same number of {kind} tokens where the model was trained, and save it again"
    return "; ".join(rows), remedy
