"""Evaluates the arithmetic of a YAML reference: numbers, names of numbers and operators; no calls."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

# No power operator: 9 ** 9 ** 9 would not finish in practical time.
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def calculate(text: str, operands: Mapping[str, Any]) -> int | float:
    """The value of an expression such as ``(a + 1) * b``; ``operands`` are the values of its names.

    Raises:
        ValueError: unsupported syntax, an operand that is not a number, or a division by zero.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, operands)
    except (ArithmeticError, KeyError, RecursionError, SyntaxError, TypeError) as error:
        raise ValueError(f"not arithmetic: {text}") from error


def _value(node: ast.expr, operands: Mapping[str, Any]) -> int | float:
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return _number(operands[node.id])
    if isinstance(node, ast.UnaryOp):
        return _number(OPERATORS[type(node.op)](_value(node.operand, operands)))
    if isinstance(node, ast.BinOp):
        return _number(OPERATORS[type(node.op)](_value(node.left, operands), _value(node.right, operands)))
    raise TypeError(ast.dump(node))


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r}")
    return value
