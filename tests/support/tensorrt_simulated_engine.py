"""The simulated half of TensorRT that runs: runtime, engine, inspector, execution context; ONNX Runtime computes.

`machine` is a `tests.support.tensorrt_simulation.Machine`.
"""

import ctypes
import json
import threading
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.support.tensorrt_simulated_builder import KINDS, MAGIC, error, shape_of

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
CONTEXT_BYTES = 3 * 2**20


def engines(machine: Any) -> dict[str, Any]:
    def runtime(this: Any, logger: Any) -> None:
        if machine.faults.cuda:
            logger.log(logger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        this._set["logger"] = logger

    def deserialize(this: Any, plan: bytes) -> Any:
        if not plan.startswith(MAGIC):
            error(this, "Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match")
            return None
        head, _, content = plan[len(MAGIC) :].partition(b"\n")
        facts = json.loads(head)
        problem = _unloadable(machine, facts, host_code=this._set.get("engine_host_code_allowed", False))
        if problem:
            error(this, problem)
            return None
        model = onnx.load_model_from_string(content)
        return machine.made("ICudaEngine", facts=facts, model=model, logger=this._set["logger"], contexts=[])

    def io(this: Any) -> list[onnx.ValueInfoProto]:
        graph = this._set["model"].graph
        return [value for value in [*graph.input, *graph.output] if value.name != machine.faults.drops_input]

    def find(this: Any, name: str) -> onnx.ValueInfoProto:
        return next(value for value in io(this) if value.name == name)

    def is_input(this: Any, name: str) -> bool:
        return name in {value.name for value in this._set["model"].graph.input}

    def dtype(this: Any, name: str) -> Any:
        kind = "" if is_input(this, name) else machine.faults.output_kind
        return machine.kind(kind or KINDS[find(this, name).type.tensor_type.elem_type])

    def mode(this: Any, name: str) -> Any:
        return machine.trt.TensorIOMode.INPUT if is_input(this, name) else machine.trt.TensorIOMode.OUTPUT

    def profile_shape(this: Any, name: str, index: int) -> list[Any]:
        shapes = this._set["facts"]["profiles"][index].get(name, [shape_of(find(this, name))] * 3)
        return [machine.dims(shape) for shape in shapes]

    def create_context(this: Any, strategy: Any = None) -> Any:
        contexts, fit = this._set["contexts"], machine.faults.contexts_that_fit
        if fit is not None and len(contexts) >= fit and strategy.name != "USER_MANAGED":
            error(this, "Error Code 2: OutOfMemory (Requested size was 3145728 bytes.)")
            return None
        session = onnxruntime.InferenceSession(
            this._set["model"].SerializeToString(), providers=["CPUExecutionProvider"]
        )
        contexts.append(
            machine.made(
                "IExecutionContext",
                engine=this,
                session=session,
                logger=this._set["logger"],
                shapes={},
                memory={},
                profile=0,
                lock=threading.Lock(),
            )
        )
        return contexts[-1]

    return {
        "Runtime": runtime,
        "Runtime.deserialize_cuda_engine": deserialize,
        "ICudaEngine.name": lambda this: this._set["facts"]["name"],
        "ICudaEngine.num_layers": lambda this: len(this._set["model"].graph.node),
        "ICudaEngine.num_io_tensors": lambda this: len(io(this)),
        "ICudaEngine.num_optimization_profiles": lambda this: len(this._set["facts"]["profiles"]) or 1,
        "ICudaEngine.device_memory_size_v2": lambda this: CONTEXT_BYTES,
        "ICudaEngine.get_device_memory_size_for_profile_v2": lambda this, index: CONTEXT_BYTES,
        "ICudaEngine.get_tensor_name": lambda this, index: io(this)[index].name,
        "ICudaEngine.get_tensor_mode": mode,
        "ICudaEngine.get_tensor_dtype": dtype,
        "ICudaEngine.get_tensor_shape": lambda this, name: machine.dims(shape_of(find(this, name))),
        "ICudaEngine.get_tensor_profile_shape": profile_shape,
        "ICudaEngine.create_execution_context": create_context,
        "ICudaEngine.create_engine_inspector": lambda this: machine.made("EngineInspector", engine=this),
        "EngineInspector.get_engine_information": lambda this, form: json.dumps(
            _inspect(machine, this._set, io(this._set["engine"]))
        ),
    }


def _unloadable(machine: Any, facts: dict[str, Any], *, host_code: bool) -> str:
    if facts["compatible"] and not host_code:
        return "Engine contains host code but engineHostCodeAllowed is false"
    if facts["version"] != machine.version and not facts["compatible"]:
        return "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match."
    if facts["capability"] != machine.capability:
        return (
            "The engine plan file is generated on an incompatible device, expecting compute "
            f"{machine.capability} got compute {facts['capability']}, please rebuild."
        )
    return ""


def _inspect(machine: Any, inspector: dict[str, Any], io: list[onnx.ValueInfoProto]) -> dict[str, Any]:
    """The inspector's JSON in the schema of the version."""
    engine = inspector["engine"]
    facts = engine._set["facts"]
    if machine.faults.reports_no_types or not facts["detailed"]:
        layers: list[Any] = [node.name for node in engine._set["model"].graph.node]
    else:
        layers = _layers(machine, engine, context=inspector.get("execution_context"))
    if machine.is_10:
        return {"Layers": layers, "Bindings": [value.name for value in io]}
    tensors = [{"Name": value.name, "DataType": "FP32", "Dimensions": list(shape_of(value))} for value in io]
    return {"Layers": layers, "I/O Tensors": tensors}


def _layers(machine: Any, engine: Any, *, context: Any) -> list[dict[str, Any]]:
    """Formats show only if a context knows all input shapes."""
    inputs = {value.name for value in engine._set["model"].graph.input}
    sized = context is not None and set(context._set["shapes"]) == inputs
    model = onnx.shape_inference.infer_shapes(engine._set["model"])
    values = [*model.graph.value_info, *model.graph.output]
    kinds = {value.name: KINDS[value.type.tensor_type.elem_type] for value in values}
    if machine.faults.ignores_precision or not engine._set["facts"]["strong"]:
        kinds = {name: "FLOAT" if kind == "HALF" else kind for name, kind in kinds.items()}
    words = {"FLOAT": ("Float", "FP32"), "HALF": ("Half", "FP16"), "BF16": ("BFloat16", "BF16")}
    layers = []
    for node in model.graph.node:
        short, long = words.get(kinds.get(node.output[0], ""), ("Int64", "INT64"))
        short, long = (short, long) if sized else ["N/A due to dynamic shapes"] * 2
        facts = {"Format/Datatype": short} if machine.is_10 else {"Format": "LINEAR", "DataType": long}
        outputs = [{"Name": node.output[0], "Dimensions": [], **facts}]
        layers.append({"Name": node.name, "LayerType": node.op_type, "Inputs": [], "Outputs": outputs})
    return layers


def running(machine: Any) -> dict[str, Any]:
    def set_input_shape(this: Any, name: str, shape: Any) -> bool:
        low, _, high = this.engine.get_tensor_profile_shape(name, this._set["profile"])
        if any(not a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            error(this, f"Set dimension {list(shape)} for tensor {name} does not satisfy any optimization profiles.")
            return False
        this._set["shapes"][name] = tuple(shape)
        return True

    def set_tensor_address(this: Any, name: str, memory: int) -> bool:
        this._set["memory"][name] = memory
        return True

    def set_profile(this: Any, index: int, stream: int) -> bool:
        this._set["profile"] = index
        return True

    def infer_shapes(this: Any) -> list[str]:
        return [value.name for value in this.engine._set["model"].graph.input if value.name not in this._set["shapes"]]

    def get_tensor_shape(this: Any, name: str) -> Any:
        graph = this.engine._set["model"].graph
        sizes: dict[str, int] = {}
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            sizes |= {d.dim_param: n for d, n in zip(dims, this._set["shapes"][value.name], strict=True) if d.dim_param}
        dims = next(value for value in graph.output if value.name == name).type.tensor_type.shape.dim
        return machine.dims([sizes.get(d.dim_param, -1) if d.dim_param else d.dim_value for d in dims])

    def execute(this: Any, stream: int) -> bool:
        if not this._set["lock"].acquire(blocking=False):
            machine.busy_twice += 1
            return False
        try:
            if machine.faults.launch:
                error(this, "enqueueV3: Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
                return False
            _execute(this)
            machine.faults.on_launch()
            return True
        finally:
            this._set["lock"].release()

    return {
        "IExecutionContext.set_input_shape": set_input_shape,
        "IExecutionContext.set_tensor_address": set_tensor_address,
        "IExecutionContext.set_optimization_profile_async": set_profile,
        "IExecutionContext.infer_shapes": infer_shapes,
        "IExecutionContext.get_tensor_shape": get_tensor_shape,
        "IExecutionContext.execute_async_v3": execute,
    }


def _execute(context: Any) -> None:
    """Read the inputs from the memory that was named, run, write the outputs where they belong."""
    state, graph = context._set, context.engine._set["model"].graph
    given = {}
    for value in graph.input:
        array = _memory(state["memory"][value.name], state["shapes"][value.name], value)
        given[value.name] = array.copy()
    results = state["session"].run(None, given)
    for value, result in zip(graph.output, results, strict=True):
        _memory(state["memory"][value.name], result.shape, value)[...] = result


def _memory(address: int, shape: tuple[int, ...], value: onnx.ValueInfoProto) -> Any:
    dtype = np.dtype(NUMPY[KINDS[value.type.tensor_type.elem_type]])
    count = int(np.prod(shape)) * dtype.itemsize
    raw = (ctypes.c_char * max(count, 1)).from_address(address)
    return np.frombuffer(raw, dtype=dtype, count=count // dtype.itemsize).reshape(shape)
