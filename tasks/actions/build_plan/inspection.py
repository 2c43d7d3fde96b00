"""Reads the engine inspector's report: which tensors a plan has and in which number formats its layers compute.

The JSON has two layouts: TensorRT 10 lists names under `Bindings` and formats such as "Half"; TensorRT 11 lists objects
under `I/O Tensors` and formats such as "FP16".
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.runtimes.tensorrt_.interface import PlanInterface

# The inspector's names of float formats, in descriptions such as "Row major linear FP16 format"
WORDS = {"FLOAT": r"FP32|Float|Float32|kFLOAT", "HALF": r"FP16|Half|Float16|kHALF", "BF16": r"BF16|BFloat16|kBF16"}


@dataclass(frozen=True)
class Inspection:
    """What a plan consists of.

    Attributes:
        tensors: names of inputs and outputs.
        layers: the number of TensorRT's layers.
        float_formats: float format -> number of layers with an output in it; empty if the plan does not list them.
    """

    tensors: tuple[str, ...]
    layers: int
    float_formats: dict[str, int]


def inspect_engine(trt: Any, engine: Any, interface: PlanInterface) -> Inspection:
    """The inspector's report on an engine, with all inputs at profile 0's optimum.

    For engines with dynamic shapes the inspector reports formats only when given an execution context with concrete
    shapes; a context without allocated memory is enough.
    """
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is not None:
        for tensor in interface.inputs:
            context.set_input_shape(tensor.name, tensor.bounds[0][1])
        inspector.execution_context = context
    return read_inspection(json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


def read_inspection(report: dict[str, Any]) -> Inspection:
    """Parse either layout of the inspector's JSON."""
    entries = report.get("I/O Tensors") or report.get("Bindings") or []
    layers = report.get("Layers") or []
    counts = Counter(kind for layer in layers for kind in set(_kinds(layer)))
    names = tuple(entry["Name"] if isinstance(entry, dict) else str(entry) for entry in entries)
    return Inspection(names, len(layers), dict(sorted(counts.items())))


def _kinds(layer: Any) -> Iterator[str]:
    """Float formats of a layer's outputs; none for a plan without details, which contains only the layers' names."""
    outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
    for tensor in outputs:
        words = " ".join(str(value) for key, value in tensor.items() if "datatype" in key.lower())
        yield from (kind for kind, pattern in WORDS.items() if re.search(rf"\b({pattern})\b", words))
