"""Reads what the engine inspector tells: which tensors a plan has and in which number formats its layers compute.

Its JSON has two layouts: TensorRT 10 lists names under `Bindings` and words like "Half"; TensorRT 11 lists objects
under `I/O Tensors` and words like "FP16".
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.runtimes.tensorrt_.interface import PlanInterface

# The inspector's words for float formats, in descriptions such as "Row major linear FP16 format"
WORDS = {"FLOAT": r"FP32|Float|Float32|kFLOAT", "HALF": r"FP16|Half|Float16|kHALF", "BF16": r"BF16|BFloat16|kBF16"}


@dataclass(frozen=True)
class Inspection:
    """What is in a plan.

    Attributes:
        tensors: names of inputs and outputs.
        layers: how many layers TensorRT made of the graph.
        float_kinds: float format -> layers that give a tensor of it. Empty where the plan does not tell.
    """

    tensors: tuple[str, ...]
    layers: int
    float_kinds: dict[str, int]


def inspect_engine(trt: Any, engine: Any, interface: PlanInterface) -> Inspection:
    """Ask an engine's inspector.

    With dynamic shapes it tells formats only for a context that knows its sizes; one without memory of its own does.
    """
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is not None:
        for tensor in interface.inputs:
            context.set_input_shape(tensor.name, tensor.bounds[0][1])
        inspector.execution_context = context
    return read_inspection(json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


def read_inspection(told: dict[str, Any]) -> Inspection:
    """Either layout of the inspector's JSON."""
    entries = told.get("I/O Tensors") or told.get("Bindings") or []
    layers = told.get("Layers") or []
    counted = Counter(kind for layer in layers for kind in set(_kinds(layer)))
    names = tuple(entry["Name"] if isinstance(entry, dict) else str(entry) for entry in entries)
    return Inspection(names, len(layers), dict(sorted(counted.items())))


def _kinds(layer: Any) -> Iterator[str]:
    """Float formats of a layer's outputs; a plan without details has only the layers' names."""
    outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
    for tensor in outputs:
        words = " ".join(str(value) for key, value in tensor.items() if "datatype" in key.lower())
        yield from (kind for kind, pattern in WORDS.items() if re.search(rf"\b({pattern})\b", words))
