"""The simulated half of TensorRT that builds: builder, config, timing cache, ONNX parser.

`machine` is a `tests.support.tensorrt_simulation.Machine`.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

import onnx

from tests.support.tensorrt_double import API

MAGIC = b"double of a plan\n"
KINDS = {1: "FLOAT", 10: "HALF", 16: "BF16", 6: "INT32", 7: "INT64", 9: "BOOL", 3: "INT8", 2: "UINT8"}


def error(this: Any, text: str) -> None:
    severity = type(this._set["logger"]).Severity.ERROR
    this._set["logger"].log(severity, text)


def building(machine: Any) -> dict[str, Any]:
    def builder(this: Any, logger: Any) -> None:
        if machine.faults.cuda:
            logger.log(logger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        this._set["logger"] = logger

    def create_network(this: Any, flags: int = 0) -> Any:
        strong = machine.bindings.classes["NetworkDefinitionCreationFlag"].STRONGLY_TYPED.value
        strongly_typed = bool(flags >> strong & 1) or not machine.is_10
        return machine.made("INetworkDefinition", inputs=[], outputs=[], strong=strongly_typed, logger=this.logger)

    def set_shape(this: Any, name: str, low: Any, usual: Any, high: Any) -> None:
        if not (len(low) == len(usual) == len(high)) or any(
            not 0 <= a <= b <= c for a, b, c in zip(low, usual, high, strict=True)
        ):
            raise ValueError(f"Invalid shapes for {name}")
        this._set["shapes"][name] = [tuple(low), tuple(usual), tuple(high)]

    def add_profile(this: Any, profile: Any) -> int:
        this._set["profiles"].append(profile._set["shapes"])
        return len(this._set["profiles"]) - 1

    def set_timing_cache(this: Any, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._set["version"] not in ("", machine.version) and not ignore_mismatch:
            return False
        this._set["cache"] = cache
        return True

    def create_timing_cache(this: Any, content: bytes) -> Any:
        if content and not content.startswith(b"timings "):
            return None
        version, *entries = content.decode().removeprefix("timings ").split() or [""]
        return machine.made("ITimingCache", version=version, entries=set(entries))

    def combine(this: Any, other: Any, ignore_mismatch: bool) -> bool:
        this._set["entries"].update(other._set["entries"])
        return True

    def serialize_cache(this: Any) -> Any:
        return machine.bindings.classes["IHostMemory"](
            f"timings {machine.version} {' '.join(sorted(this._set['entries']))}".encode()
        )

    flags_of: Callable[[Any], set[str]] = lambda this: this._set.setdefault("flags_set", {"TF32"})  # noqa: E731
    return {
        "Builder": builder,
        "Builder.logger": lambda this: this._set["logger"],
        "Builder.create_network": create_network,
        "Builder.create_builder_config": lambda this: machine.made(
            "IBuilderConfig", profiles=[], cache=None, pools={}, profiling_verbosity=None
        ),
        "Builder.create_optimization_profile": lambda this: machine.made("IOptimizationProfile", shapes={}),
        "Builder.build_serialized_network": lambda this, network, config: _build(machine, this, network, config),
        "IOptimizationProfile.set_shape": set_shape,
        "IBuilderConfig.add_optimization_profile": add_profile,
        "IBuilderConfig.set_memory_pool_limit": lambda this, pool, size: this._set["pools"].update({pool.name: size}),
        "IBuilderConfig.set_flag": lambda this, flag: flags_of(this).add(flag.name),
        "IBuilderConfig.clear_flag": lambda this, flag: flags_of(this).discard(flag.name),
        "IBuilderConfig.get_flag": lambda this, flag: flag.name in flags_of(this),
        "IBuilderConfig.create_timing_cache": create_timing_cache,
        "IBuilderConfig.set_timing_cache": set_timing_cache,
        "IBuilderConfig.get_timing_cache": lambda this: this._set["cache"],
        "ITimingCache.serialize": serialize_cache,
        "ITimingCache.combine": combine,
        "IHostMemory.nbytes": len,
    }


def _build(machine: Any, builder: Any, network: Any, config: Any) -> Any:
    if problem := _unbuildable(network, config):
        error(builder, problem)
        return None
    if not _report_progress(machine, config._set.get("progress_monitor")):
        return None
    if machine.faults.build_errors:
        for line in machine.faults.build_errors:
            error(builder, line)
        return None
    if config._set["cache"] is not None:
        config._set["cache"]._set["entries"].add("tactic")
    head = {
        "version": machine.version,
        "capability": machine.capability,
        "name": network._set.get("name", ""),
        "profiles": config._set["profiles"],
        "strong": network._set["strong"],
        "compatible": "VERSION_COMPATIBLE" in config._set.get("flags_set", set()),
        "detailed": getattr(config._set["profiling_verbosity"], "name", "") == "DETAILED",
    }
    content = MAGIC + json.dumps(head).encode() + b"\n" + network._set["model"].SerializeToString()
    return machine.bindings.classes["IHostMemory"](content)


def _unbuildable(network: Any, config: Any) -> str:
    for tensor in network._set["inputs"]:
        shape = tensor._set["shape"]
        if -1 in shape and not config._set["profiles"]:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        for profile in config._set["profiles"]:
            name = tensor._set["name"]
            if -1 in shape and name not in profile:
                return f"Dynamic input tensor {name} is missing dimensions in profile 0"
            for bound in profile.get(name, []):
                if any(size not in (-1, given) for size, given in zip(shape, bound, strict=True)):
                    return f"Static dimension mismatch while setting input shape for {name}"
    return ""


def _report_progress(machine: Any, monitor: Any) -> bool:
    """Drive the monitor as the builder does: nested phases, from a thread of its own; False: cancelled."""
    if monitor is None:
        return True
    answers: list[bool] = []

    def report() -> None:
        monitor.phase_start("Building Engine", None, machine.faults.steps)
        monitor.phase_start("Tactic timing", "Building Engine", 1)
        monitor.phase_finish("Tactic timing")
        for step in range(machine.faults.steps):
            machine.faults.on_step(step)
            answers.append(monitor.step_complete("Building Engine", step))
            if not answers[-1]:
                break
        monitor.phase_finish("Building Engine")

    thread = threading.Thread(target=report)
    thread.start()
    thread.join()
    return all(answers)


def parsing(machine: Any) -> dict[str, Any]:
    table = json.loads((API / "onnx_operators.json").read_text())["operators"]

    def parser(this: Any, network: Any, logger: Any) -> None:
        this._set.update(network=network, logger=logger, errors=[])

    def refuse(this: Any, desc: str, *, node: str = "", operator: str = "", code: str = "UNSUPPORTED_NODE") -> None:
        facts = {"desc": desc, "node_name": node, "node_operator": operator}
        this._set["errors"].append(machine.made("ParserError", facts=facts, code=code))
        error(this, desc)

    def parse(this: Any, path: str) -> bool:
        try:
            model = onnx.load(path)
        except Exception as problem:  # whatever onnx raises for whatever is in the file
            refuse(this, f"Failed to parse ONNX model from file: {path}: {problem}", code="MODEL_DESERIALIZE_FAILED")
            return False
        for node in model.graph.node:
            if not table.get(node.op_type, {}).get("supported"):
                refuse(this, f"No importer registered for op: {node.op_type}", node=node.name, operator=node.op_type)
        this._set["network"]._set.update(
            model=model,
            inputs=[_network_tensor(machine, value) for value in model.graph.input],
            outputs=[_network_tensor(machine, value) for value in model.graph.output],
        )
        return not this._set["errors"]

    facts = ("desc", "node_name", "node_operator")
    return {
        "OnnxParser": parser,
        "OnnxParser.parse_from_file": parse,
        "OnnxParser.num_errors": lambda this: len(this._set["errors"]),
        "OnnxParser.get_error": lambda this, index: this._set["errors"][index],
        **{f"ParserError.{key}": lambda this, key=key: this._set["facts"][key] for key in facts},
        "ParserError.code": lambda this: machine.bindings.classes["ErrorCode"][this._set["code"]],
        "INetworkDefinition.num_inputs": lambda this: len(this._set["inputs"]),
        "INetworkDefinition.num_outputs": lambda this: len(this._set["outputs"]),
        "INetworkDefinition.get_input": lambda this, index: this._set["inputs"][index],
        "INetworkDefinition.get_output": lambda this, index: this._set["outputs"][index],
        "INetworkDefinition.num_layers": lambda this: len(this._set["model"].graph.node),
    }


def _network_tensor(machine: Any, value: onnx.ValueInfoProto) -> Any:
    return machine.made(
        "ITensor",
        name=value.name,
        shape=machine.dims(shape_of(value)),
        dtype=machine.kind(KINDS[value.type.tensor_type.elem_type]),
    )


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(-1 if dim.dim_param else dim.dim_value for dim in value.type.tensor_type.shape.dim)
