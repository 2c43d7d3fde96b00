"""The declaration of a component as steps carry it: its inputs, outputs, axes and options, and what follows from them.

Pure: declarations are made from the JSON-plain parameters of a step and never changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.errors import UserError, shortened

Shape = tuple[int | str, ...]  # sizes, and names of sizes
PartialShape = Sequence[int | None]  # None where any size fits


class Kind(StrEnum):
    """What the values of an input look like in reality, and so how test inputs are made."""

    normal = "normal"  # standard normal distribution
    uniform = "uniform"  # between low and high, by default 0 and 1
    integers = "integers"  # from low to high, both included: token ids
    mask = "mask"  # 1 where an item is valid, 0 in the padding at its end
    lengths = "lengths"  # valid sizes of the items along an axis
    time = "time"  # steps of a flow's solver, in [0, 1)
    recorded = "recorded"  # cannot be made: only recorded inputs are realistic


class Dtype(StrEnum):
    """PyTorch's name of an input's dtype; float32 means the floats of the artifact's precision."""

    float32 = "float32"
    int32 = "int32"
    int64 = "int64"
    bool = "bool"


# The dtypes that a kind of values can have; the first is the default.
DTYPES: dict[Kind, tuple[Dtype, ...]] = {
    Kind.normal: (Dtype.float32,),
    Kind.uniform: (Dtype.float32,),
    Kind.integers: (Dtype.int64, Dtype.int32),
    Kind.mask: (Dtype.float32, Dtype.bool, Dtype.int32, Dtype.int64),
    Kind.lengths: (Dtype.int32, Dtype.int64),
    Kind.time: (Dtype.float32,),
    Kind.recorded: tuple(Dtype),
}
BOUNDED = (Kind.uniform, Kind.integers)  # kinds that take low and high


@dataclass(frozen=True)
class AxisSpec:
    """The sizes of an axis; the fields are those of `tasks.settings.model_schema.Axis`."""

    min: int
    opt: int
    max: int
    multiple_of: int = 1
    least: int = 1
    dynamic: bool = True


@dataclass(frozen=True)
class InputSpec:
    """One input.

    Attributes:
        shape: sizes, names of axes and of other sizes.
        low, high: bounds of uniform values, and of integers, both included.
        axis: what lengths measure, where it is not the only candidate.
    """

    shape: Shape
    kind: Kind = Kind.normal
    dtype: Dtype = Dtype.float32
    low: float = 0.0
    high: float = 1.0
    axis: str | None = None

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "InputSpec":
        """From the plain fields of `tasks.settings.model_schema.Input`."""
        kind = Kind(params.get("kind") or Kind.normal)
        given = {name: float(params[name]) for name in ("low", "high") if params.get(name) is not None}
        dtype = Dtype(params.get("dtype") or DTYPES[kind][0])
        return cls(tuple(params["shape"]), kind, dtype, axis=params.get("axis"), **given)


@dataclass(frozen=True)
class ChunkedSpec:
    """A method that takes a sequence chunk by chunk, with the fields of `tasks.settings.model_schema.ChunkedMethod`."""

    method: str
    pieces: str
    axis: str
    state: Mapping[str, Sequence[int]]
    position: str | None = None
    mask: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentSpec:
    """One component of a model.

    Attributes:
        name: dotted path inside the model.
        part: of the model that holds it.
        loader: ``module:function``, called as ``loader(spec, config=Path, weights=Path)``; returns the original
            ``nn.Module`` in eval mode, in fp32 and on the CPU.
        inputs: in the order of the artifact's, by the names of the module's arguments.
        outputs: name -> shape, in order.
        axes: those that inputs have, with their sizes.
        options: keyword arguments of the module that are constants in the artifact.
        kept_methods: methods beside forward that a TorchScript file keeps.
    """

    name: str
    part: str = ""
    loader: str = ""
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    outputs: Mapping[str, Shape] = field(default_factory=dict)
    axes: Mapping[str, AxisSpec] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    kept_methods: tuple[str, ...] = ()
    chunked: ChunkedSpec | None = None

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "ComponentSpec":
        """From ``params["component"]`` of a step, which holds what that step needs of the declaration."""
        inputs, outputs = params.get("inputs") or {}, params.get("outputs") or {}
        order = params.get("argument_order") or [*inputs, *outputs]
        chunked = params.get("chunked")
        return cls(
            name=params["name"],
            part=params.get("part", ""),
            loader=params.get("loader", ""),
            inputs={name: InputSpec.from_params(inputs[name]) for name in order if name in inputs},
            outputs={name: tuple(outputs[name]) for name in order if name in outputs},
            axes={name: AxisSpec(**axis) for name, axis in (params.get("axes") or {}).items()},
            options=dict(params.get("options") or {}),
            kept_methods=tuple(params.get("kept_methods") or ()),
            chunked=ChunkedSpec(**chunked) if chunked else None,
        )

    @property
    def setting(self) -> str:
        """Where its declaration is among the settings: components are declared under their names."""
        return f"model.components.{self.name.replace('.', '_')}"

    def option_setting(self, name: str, value: Any) -> str:
        """An option as it is typed."""
        text = json.dumps(value) if isinstance(value, bool | int | float | None) else shortened(str(value), 100)
        return f"{self.setting}.options.{name}={text}"

    @property
    def shapes(self) -> dict[str, Shape]:
        """Declared shapes of inputs and outputs."""
        return {name: declared.shape for name, declared in self.inputs.items()} | dict(self.outputs)

    def of_kind(self, kind: Kind) -> tuple[str, ...]:
        """The inputs of a kind."""
        return tuple(name for name, declared in self.inputs.items() if declared.kind is kind)

    def sizes_at(self, bound: str) -> dict[str, int]:
        """Axis -> its size at ``min``, ``opt`` or ``max``; those that files fix are at their opt."""
        return {name: getattr(axis, bound if axis.dynamic else "opt") for name, axis in self.axes.items()}

    def shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of an input at given sizes.

        Raises:
            UserError: a named size is not among them.
        """
        declared = self.inputs[name].shape
        unknown = [size for size in declared if isinstance(size, str) and size not in sizes]
        if unknown:
            raise UserError(
                "an axis has no size",
                where=f"{self.name}: inputs.{name}.shape",
                value=", ".join(map(str, unknown)),
                remedy="Declare it in model.axes, or let the module report it in sizes()",
            )
        return tuple(size if isinstance(size, int) else sizes[size] for size in declared)

    def fixed_sizes(self, shapes: Mapping[str, PartialShape]) -> dict[str, int]:
        """The named sizes that an artifact fixes.

        Args:
            shapes: of its inputs by name, None where any size fits.
        """
        return {
            size: fixed
            for name, found in shapes.items()
            if name in self.inputs
            for size, fixed in zip(self.inputs[name].shape, found, strict=True)
            if isinstance(size, str) and fixed is not None
        }

    def dynamic_axes(self, *, dynamic_batch: bool) -> dict[str, AxisSpec]:
        """The axes that vary in an ONNX file: all if `dynamic_batch`, else those that are declared to."""
        return {name: axis for name, axis in self.axes.items() if axis.dynamic or dynamic_batch}

    def measured_axis(self, name: str) -> str:
        """The axis that an input of lengths measures: the declared one, or the only candidate.

        Raises:
            UserError: none is declared, and there is no candidate or more than one.
        """
        declared = self.inputs[name].axis
        candidates = measured_axes(name, {n: x.shape for n, x in self.inputs.items()}, self.axes)
        if declared or len(candidates) == 1:
            return declared or candidates[0]
        raise UserError(
            "the axis that these lengths measure is ambiguous",
            where=f"{self.name}: inputs.{name}",
            value=", ".join(candidates) or "no axis",
            remedy=f"Set {self.setting}.inputs.{name}.axis",
        )


def measured_axes(name: str, shapes: Mapping[str, Sequence[int | str]], axes: Mapping[str, Any]) -> list[str]:
    """The axes that lengths can measure: those of other inputs that the lengths themselves do not have."""
    others = {size for shape in shapes.values() for size in shape if size in axes}
    return sorted(str(size) for size in others - set(shapes[name]))
