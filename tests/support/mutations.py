"""Seeded mutations: bytes, lines of YAML, entries of JSON, tensors of a state dict, settings, code."""

import ast
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tasks.plain_data import flat, plain
from tasks.settings.compose import load

# Values that have been trouble somewhere: signs, sizes, other types, tags, escapes, references.
VALUES = [
    "0", "-1", "1e999", "1000000000", "9" * 5000, ".nan", "-.inf", "true", "null", "''", "[]", "{}", "[[1, 2], [3]]",
    "0x", "1:30", "2024-13-45", "!!int abc", "!!bool abc", "!!timestamp x", "!!binary abc", "!foo 1", "!new:os.system",
    "!ref <flow>", "!ref <nothing>", "!ref <sample_rate> * <sample_rate>", '"\\UFFFFFFFF"', '"\\ud800"', "*x",
    "&a [*a]", "| x", "!!python/tuple [1]", "[" * 2000, "{a: 1}", "名", "a\tb",
]  # fmt: skip
KEYS = ["x", "1", "<<", "__class__", "~"]
BYTES = [b"[" * 2000, b"{", b"&a ", b"*a", b"!!x ", b"\xff", b"9" * 5000, b"\n", b": ", b"- ", b"<<: ", b"\t", b"\0"]
JSON_VALUES: list[Any] = [
    None, True, -1, 0, 10**6, 10**400, 1.5, float("nan"), "", "x", "k" * 10**5, [], [1], {}, {"a": 1}, "\0", "名",
]  # fmt: skip
DTYPES = [torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
NAMES = ["x", "", ".", "..", "a\0b", "名" * 50, "k" * 10**6]


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    """Bytes changed, removed, repeated or cut off."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 3, 30])):
        if not data:
            break
        place = dice.randrange(len(data))
        match dice.randrange(5):
            case 0:
                data[place] = dice.randrange(256)
            case 1:
                data[place] ^= 1 << dice.randrange(8)
            case 2:
                del data[place : place + dice.choice([1, 10, 1000])]
            case 3:
                data[place:place] = dice.choice(BYTES)
            case 4 if dice.random() < 0.2:
                del data[place:]
    return bytes(data)


def mutated_yaml(text: str, dice: random.Random) -> str:
    """Values replaced, lines removed, repeated or moved, keys renamed."""
    lines = text.split("\n")
    for _ in range(dice.choice([1, 1, 2])):
        place = dice.randrange(len(lines))
        match dice.randrange(8):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, dice.choice(lines))
            case 2:
                lines[place] = " " * dice.randrange(8) + lines[place].strip()
            case 3:
                lines[place] = re.sub(
                    r"\w+(?=:)", dice.choice(["x", "1", "<<", "__class__", "~"]), lines[place], count=1
                )
            case _:
                lines[place] = re.sub(r":\s+\S.*$", lambda _: f": {dice.choice(VALUES)}", lines[place])
    return "\n".join(lines)


def mutated_json(content: Any, dice: random.Random) -> Any:
    """One entry of a nest of mappings removed, replaced or added."""
    if not isinstance(content, dict) or not content:
        return dice.choice(JSON_VALUES)
    key, changed = dice.choice(list(content)), dict(content)
    match dice.randrange(5):
        case 0:
            del changed[key]
        case 1:
            changed[dice.choice(NAMES)] = dice.choice(JSON_VALUES)
        case 2:
            changed[key] = dice.choice(JSON_VALUES)
        case _:
            changed[key] = mutated_json(content[key], dice)
    return changed


def mutated_state(state: dict[str, Any], dice: random.Random) -> Any:
    """One tensor of another name, dtype, shape or kind, or something else around all of them."""
    key = dice.choice(list(state))
    tensor, changed = state[key], dict(state)
    replacements: list[Any] = [
        tensor.to(dice.choice(DTYPES)), tensor.flatten(), tensor[None], tensor.new_zeros(0), tensor.new_zeros(()),
        torch.full_like(tensor, float("nan")), tensor.to_sparse(), torch.empty(10**15, device="meta"),
        tensor.flatten()[:1].expand(10**12), None, "text", 10**40, [tensor], {"a": tensor}, {1: tensor},
    ]  # fmt: skip
    match dice.randrange(4):
        case 0:
            changed[dice.choice(NAMES)] = changed.pop(key)
        case 1:
            wrapped: list[Any] = [
                [state],
                {"model": state},
                {"model": state, "ema": state},
                {5: state},
                tensor,
                None,
                {},
            ]
            return dice.choice(wrapped)
        case _:
            changed[key] = dice.choice(replacements)
    return changed


class _Mutation(ast.NodeTransformer):
    """Changes one number, truth value or operator, the one with a given index; with None it only counts them."""

    SWAPPED: ClassVar[dict[type[ast.AST], type[ast.AST]]] = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
        ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
        ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    }  # fmt: skip

    def __init__(self, wanted: int | None) -> None:
        self.count, self.wanted, self.text = 0, wanted, "nothing to change"

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        number = isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float)
        if not number and type(node) not in self.SWAPPED:
            return node
        self.count += 1
        if self.count - 1 != self.wanted:
            return node
        if isinstance(node, ast.Constant):
            value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
            self.text = f"{node.value} -> {value}, line {node.lineno}"
            return ast.copy_location(ast.Constant(value), node)
        self.text = f"{type(node).__name__} -> {self.SWAPPED[type(node)].__name__}"
        return self.SWAPPED[type(node)]()


def changed_code(path: Path, dice: random.Random) -> str:
    """Change one number or operator in a module; what was changed."""
    tree = ast.parse(path.read_text())
    counted = _Mutation(None)
    counted.visit(tree)
    mutation = _Mutation(dice.randrange(counted.count) if counted.count else None)
    path.write_text(ast.unparse(mutation.visit(tree)))
    return mutation.text


def changed_number(path: Path, dice: random.Random) -> str:
    """Change one number in a text file; its line afterwards."""
    lines = path.read_text().split("\n")
    place = dice.choice([n for n, line in enumerate(lines) if re.search(r":\s*\d+(\.\d+)?\s*$", line)])
    lines[place] = re.sub(r"\d+(?=\s*$)", lambda match: str(int(match[0]) + dice.choice([1, 2, 8])), lines[place])
    path.write_text("\n".join(lines))
    return lines[place].strip()


def changed_weight(path: Path, dice: random.Random) -> str:
    """Double one element of one tensor in a checkpoint; where it is."""
    state = torch.load(path, weights_only=True)
    name = dice.choice(
        [name for name, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()]
    )
    place = dice.randrange(state[name].numel())
    state[name].view(-1)[place] *= 2
    torch.save(state, path)
    return f"{name}[{place}]"


def changed_setting(settings: Sequence[str], dice: random.Random) -> str:
    """A word that gives one setting another value of its kind; it may be out of range."""
    (config,) = load([*settings, "model.dir=."], workdir=Path.cwd())
    values = {key: value for key, value in flat(plain(config)).items() if isinstance(value, bool | int | float | str)}
    key = dice.choice(sorted(values))
    match values[key]:
        case bool(value):
            return f"{key}={str(not value).lower()}"
        case str():
            return f"{key}={dice.choice(['fp16', 'dynamo', 'always', 'portable', 'cpu', 'off', 'x'])}"
        case value:
            return f"{key}={value + dice.choice([1, 2, 8])}"
