"""Parses a model YAML and bounds it before any value is made: size, depth, what aliases expand to, keys given twice.

The real files have some 300 nodes, 8 levels and 10 kB.
"""

from pathlib import Path
from typing import Any

import yaml

from tasks.models.cosyvoice.hyperyaml.records import problem

MAX_NODES = 20_000  # with every alias written out
MAX_DEPTH = 40
MAX_DIGITS = 40  # characters of a number
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
ORIGINAL = "Use the original YAML of the model"


class BoundedComposer(yaml.SafeLoader):
    """Composes nodes only as long as their number and their depth are within the bounds."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.path = path
        self.depth = self.count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth, self.count = self.depth + 1, self.count + 1
        line = self.peek_event().start_mark.line + 1
        if self.depth > MAX_DEPTH:
            raise problem(self.path, f"is nested more than {MAX_DEPTH} levels deep", line, None, ORIGINAL)
        if self.count > MAX_NODES:
            raise problem(self.path, f"has more than {MAX_NODES} values", line, None, ORIGINAL)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class NodeCheck:
    """Checks the nodes of a file once each; aliases make them a graph."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sizes: dict[int, int] = {}  # id of a node -> number of nodes in it, aliases written out; 0 while open

    def check(self, node: yaml.Node) -> int:
        """The number of nodes of the expanded node.

        Raises:
            UserError: a node contains itself or expands to too much, a key is given twice, a number is too long.
        """
        if id(node) not in self._sizes:
            self._sizes[id(node)] = 0
            self._check_keys(node)
            self._check_number(node)
            self._sizes[id(node)] = 1 + sum(map(self.check, _children(node)))
        size = self._sizes[id(node)]
        if not size:
            raise self._problem("contains itself through an alias", node)
        if size > MAX_NODES:
            raise self._problem(f"has more than {MAX_NODES} values when its aliases are written out", node)
        return size

    def _check_keys(self, node: yaml.Node) -> None:
        first: dict[str, int] = {}
        for key in _keys(node):
            line = key.start_mark.line + 1
            if key.value in first:
                raise problem(
                    self.path,
                    f"a key is given twice, in lines {first[key.value]} and {line}",
                    line,
                    key.value,
                    "Delete one of the two lines",
                )
            first[key.value] = line

    def _check_number(self, node: yaml.Node) -> None:
        if node.tag in NUMBERS and isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_DIGITS:
            raise self._problem(f"a number of more than {MAX_DIGITS} characters", node, node.value)

    def _problem(self, what: str, node: yaml.Node, value: object = None) -> Exception:
        return problem(self.path, what, node.start_mark.line + 1, value, ORIGINAL)


def _keys(node: yaml.Node) -> list[yaml.ScalarNode]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [key for key, _ in pairs if isinstance(key, yaml.ScalarNode)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
