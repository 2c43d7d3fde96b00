"""What a model YAML has of one part: the records under some keys, and all that these refer to.

Comments, layout and the records of other parts change nothing in it, so they make no artifact stale.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml

from tasks.errors import UserError
from tasks.user_files import read_text

MAX_BYTES = 200_000  # real files have 10,000; what has more is digested by its bytes
REFERENCE = re.compile(r"<([^<>.\[\]]+)")  # the first key of <key>, <key.inner> and <key[inner]>


def part_digest(path: Path, records: Collection[str]) -> str | None:
    """Digest of some records; None for a file that lacks one or cannot be read, of which every byte counts."""
    try:
        root = yaml.compose(read_text(path, most=MAX_BYTES), Loader=yaml.SafeLoader)
        return _Records(root).digest(records)
    except (UserError, yaml.YAMLError, ValueError, OverflowError, RecursionError):  # an escape is any number
        return None


class _Records:
    """The top level of a file. Aliases make its nodes a graph, of which each node is digested once."""

    def __init__(self, root: yaml.Node | None) -> None:
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        self._nodes: dict[str, yaml.Node] = {key.value: node for key, node in pairs if isinstance(key, yaml.ScalarNode)}
        if len(self._nodes) != len(pairs):
            raise ValueError("a key is given twice, or is no text")
        self._digests: dict[int, str] = {}
        self._references: dict[int, set[str]] = {}

    def digest(self, records: Collection[str]) -> str | None:
        if not self._nodes.keys() >= set(records):
            return None
        found: dict[str, str] = {}
        waiting = [*records]
        while waiting:
            key = waiting.pop()
            if key in self._nodes and key not in found:
                found[key] = self._of(self._nodes[key])
                waiting += sorted(self._references[id(self._nodes[key])])
        return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()

    def _of(self, node: yaml.Node) -> str:
        if id(node) not in self._digests:
            self._digests[id(node)] = ""  # an alias to a node that contains it: refused when the file is read
            inner = [self._of(child) for child in _children(node)]
            values = [node.value] if isinstance(node, yaml.ScalarNode) else inner
            if isinstance(node, yaml.MappingNode):  # arguments are given by name
                values = sorted(f"{key} {value}" for key, value in zip(inner[::2], inner[1::2], strict=True))
            text = repr((type(node).__name__, node.tag, values))
            self._digests[id(node)] = hashlib.sha256(text.encode()).hexdigest()
            own = set(REFERENCE.findall(node.value)) if isinstance(node, yaml.ScalarNode) else set()
            self._references[id(node)] = own.union(*(self._references.get(id(each), set()) for each in _children(node)))
        return self._digests[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
