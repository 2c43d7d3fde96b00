"""What a type cannot say about settings: ranges and rules between fields."""

import math
import re
from collections.abc import Iterator
from typing import Any

from tasks.plain_data import plain
from tasks.settings.onnx_exporters import OPSETS, obstacle
from tasks.settings.schema import Config, Exporter, Format, Mode
from tasks.settings.shape_profiles import profile_problems

FOLDER_NAME = re.compile(r"\w[\w.-]*")
SEEDS = range(2**32)


def problems(config: Config) -> list[str]:
    """All that is wrong with a composed configuration, one line each; empty if it can be used."""
    checks = (_model_problems, _axis_problems, _range_problems, _opset_problems, _shape_problems)
    return [problem for check in checks for problem in check(config)]


def _model_problems(config: Config) -> Iterator[str]:
    model = config.model
    if not FOLDER_NAME.fullmatch(model.name):
        yield f"model.name={model.name}: names a folder of artifacts: letters, digits, _ - and, not in front, ."
    for part in model.checkpoints.keys() - model.parts.keys():
        yield f"model.checkpoints.{part}: no such part; the model has {', '.join(model.parts)}"


def _range_problems(config: Config) -> Iterator[str]:
    onnx, verify, train = config.onnx, config.verify, config.train
    rules: list[tuple[str, Any, bool, str]] = [
        ("onnx.opset", onnx.opset, onnx.opset in OPSETS, f"{OPSETS.start} to {OPSETS.stop - 1}"),
        ("average.num", config.average.num, config.average.num >= 1, "1 or more checkpoints"),
        ("verify.trials", verify.trials, verify.trials >= 1, "1 or more"),
        ("verify.seed", verify.seed, verify.seed in SEEDS, f"0 to {SEEDS.stop - 1}"),
        ("verify.max_frames", verify.max_frames, verify.max_frames >= 1, "1 or more frames"),
        ("verify.rtol", verify.rtol, 0 <= verify.rtol < math.inf, "0 or more"),
        ("verify.atol", verify.atol, 0 <= verify.atol < math.inf, "0 or more"),
        ("verify.max_outside", verify.max_outside, 0 <= verify.max_outside <= 1, "0 to 1"),
        ("verify.max_peak_error", verify.max_peak_error, 0 <= verify.max_peak_error < math.inf, "0 or more"),
        ("verify.min_snr_db", verify.min_snr_db, math.isfinite(verify.min_snr_db), "a number of dB"),
        ("verify.min_cosine", verify.min_cosine, -1 <= verify.min_cosine <= 1, "-1 to 1"),
        ("vllm.trials", config.vllm.trials, config.vllm.trials >= 1, "1 or more"),
        ("vllm.seed", config.vllm.seed, config.vllm.seed in SEEDS, f"0 to {SEEDS.stop - 1}"),
        ("vllm.max_positions", config.vllm.max_positions, config.vllm.max_positions >= 4, "4 or more"),
        ("train.max_epoch", train.max_epoch, train.max_epoch >= 1, "1 or more"),
        ("train.steps_per_epoch", train.steps_per_epoch, train.steps_per_epoch >= 1, "1 or more"),
        ("train.batch_size", train.batch_size, train.batch_size >= 1, "1 or more"),
        ("train.lr", train.lr, train.lr > 0, "more than 0"),
        ("train.warmup_steps", train.warmup_steps, train.warmup_steps >= 1, "1 or more"),
        ("train.grad_clip", train.grad_clip, train.grad_clip > 0, "more than 0"),
        ("train.validation_batches", train.validation_batches, train.validation_batches >= 1, "1 or more"),
        ("tensorrt.concurrency", config.tensorrt.concurrency, config.tensorrt.concurrency >= 1, "1 or more"),
        ("tensorrt.workspace_gib", config.tensorrt.workspace_gib, config.tensorrt.workspace_gib > 0, "more than 0"),
        (
            "tensorrt.optimization_level",
            config.tensorrt.optimization_level,
            config.tensorrt.optimization_level in range(6),
            "0 to 5",
        ),
    ]
    for key, value, holds, allowed in rules:
        if not holds:
            yield f"{key}={value}: out of range; allowed: {allowed}"


def _opset_problems(config: Config) -> Iterator[str]:
    onnx = config.onnx
    if onnx.exporter is not Exporter.auto and onnx.opset in OPSETS and (found := obstacle(onnx.exporter, onnx.opset)):
        yield f"onnx.opset={onnx.opset}: {'; '.join(found)}"


def _axis_problems(config: Config) -> Iterator[str]:
    broken = list(_broken_axes(config))
    if broken or config.tensorrt.mode is Mode.off:
        yield from broken
    else:
        yield from _profile_problems(config)


def _profile_problems(config: Config) -> Iterator[str]:
    """Plans have the axes of the components that become plans, not all of the model's."""
    built = [component for component in config.model.components.values() if Format.tensorrt in component.formats]
    names = {size for component in built for tensor in component.inputs.values() for size in tensor.shape}
    axes = {name: axis for name, axis in plain(config.model.axes).items() if name in names}
    if built:
        yield from profile_problems(axes, plain(config.tensorrt))


def _broken_axes(config: Config) -> Iterator[str]:
    for name, axis in config.model.axes.items():
        if not 1 <= axis.min <= axis.opt <= axis.max:
            yield (
                f"model.axes.{name}: needs 1 <= min <= opt <= max, got min={axis.min}, opt={axis.opt}, max={axis.max}"
            )


def _shape_problems(config: Config) -> Iterator[str]:
    for key, component in config.model.components.items():
        where = f"model.components.{key}"
        if component.part not in config.model.parts:
            yield f"{where}.part={component.part}: not among model.parts ({', '.join(config.model.parts)})"
        if component.stream and component.stream.method not in component.kept_methods:
            yield f"{where}.stream.method={component.stream.method}: not among its kept_methods"
        for module in (component.loader, component.module):
            if not module.startswith("tasks."):
                yield f"{where}: {module} is outside this project; put the module under tasks/models/"
