"""Runs a TensorRT plan on PyTorch tensors, from many threads at once.

Each of N execution contexts has its own CUDA stream. A call never blocks the host: streams wait for streams, so that a
solver's loop keeps the GPU busy.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tasks.errors import UserError
from tasks.runtimes.base import Dtypes, Shapes
from tasks.runtimes.tensorrt_.context_pool import ContextPool
from tasks.runtimes.tensorrt_.interface import PlanInterface, choose_profile, read_interface
from tasks.runtimes.tensorrt_.library import (
    collecting_logger,
    deserialize,
    error_text,
    import_tensorrt,
    read_plan,
)
from tasks.runtimes.tensorrt_.streams import CudaStreams, Streams


def open_artifact(
    path: Path, *, device: str, threads: int, concurrency: int = 1, allow_host_code: bool = False
) -> "TensorRTEngine":
    """Load a plan.

    Args:
        device: "cuda" or "cuda:N"; a plan needs a GPU.
        threads: not used, a plan runs on the GPU.
        concurrency: execution contexts: how many calls can be in flight at once. Each needs activation memory.
        allow_host_code: see `tasks.runtimes.tensorrt_.library.deserialize`.

    Raises:
        UserError: if TensorRT, the GPU and the plan do not match, or memory does not suffice.
    """
    del threads
    return load_engine(
        path,
        trt=import_tensorrt(),
        streams=CudaStreams(device),
        concurrency=concurrency,
        allow_host_code=allow_host_code,
    )


def load_engine(
    path: Path, *, trt: Any, streams: Streams, concurrency: int = 1, allow_host_code: bool = False
) -> "TensorRTEngine":
    """`open_artifact` with TensorRT and the device's streams given."""
    logger = collecting_logger(trt)
    with streams.on_device():
        plan = read_plan(path)
        engine = deserialize(trt, plan, logger=logger, where=path, allow_host_code=allow_host_code)
        interface = read_interface(trt, engine)
        contexts = _contexts(trt, engine, concurrency, logger=logger)
        slots = [ExecutionSlot(context, interface, streams, logger) for context in contexts]
    return TensorRTEngine(
        engine, interface, ContextPool(slots), streams, provider=f"TensorRT {trt.__version__} on {streams.name()}"
    )


class TensorRTEngine:
    """A loaded plan.

    Attributes:
        provider: the version of TensorRT and the GPU.
        interface: names, shapes, dtypes and profile bounds.
    """

    def __init__(
        self,
        engine: Any,
        interface: PlanInterface,
        pool: "ContextPool[ExecutionSlot]",
        streams: Streams,
        *,
        provider: str,
    ) -> None:
        self._engine, self._pool, self._streams = engine, pool, streams
        self.interface, self.provider = interface, provider

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Run once on any free context.

        Args:
            inputs: every input by name, of a shape within one of the plan's profiles, on any device, of any float
                dtype.

        Returns:
            The outputs in the plan's order, dtypes and device, ready for work on the caller's current stream.
        """
        with self.acquire() as slot:
            return slot(inputs)

    @property
    def dtypes(self) -> Dtypes:
        """See `tasks.runtimes.base.Runtime`."""
        return {tensor.name: tensor.dtype for tensor in self.interface.inputs}

    @property
    def shapes(self) -> Shapes:
        """See `tasks.runtimes.base.Runtime`."""
        return {tensor.name: tuple(None if n == -1 else n for n in tensor.shape) for tensor in self.interface.inputs}

    @property
    def outputs(self) -> Dtypes:
        """See `tasks.runtimes.base.Runtime`."""
        return {tensor.name: tensor.dtype for tensor in self.interface.outputs}

    @contextmanager
    def acquire(self, *, timeout: float | None = None) -> Iterator["ExecutionSlot"]:
        """Hold one context for several calls, a solver's steps for instance."""
        with self._pool.acquire(timeout=timeout) as slot:
            yield slot

    def synchronize(self) -> None:
        """Block until the GPU has finished all work; for measurements only, a call never does it."""
        self._streams.synchronize()

    @property
    def device(self) -> torch.device:
        return self._streams.device

    def context_memory(self) -> list[int]:
        """Bytes of activation memory that one context needs, for each profile."""
        return [self._engine.get_device_memory_size_for_profile_v2(i) for i in range(self.interface.profiles)]


class ExecutionSlot:
    """One execution context with its own stream; one caller at a time."""

    def __init__(self, context: Any, interface: PlanInterface, streams: Streams, logger: Any) -> None:
        self._context, self._interface, self._streams, self._logger = context, interface, streams, logger
        self._stream = streams.new()
        self._profile = 0

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """As `TensorRTEngine.__call__`."""
        with self._streams.on_device():
            given = self._prepare(inputs)
            self._use_profile(choose_profile(self._interface, {name: tuple(t.shape) for name, t in given.items()}))
            results = self._bind(given)
            self._launch([*given.values(), *results])
            return tuple(results)

    def _prepare(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        expected = {tensor.name: tensor for tensor in self._interface.inputs}
        if set(inputs) != set(expected):
            raise UserError("wrong inputs for the plan", value=sorted(inputs), remedy=f"Give {', '.join(expected)}")
        if others := {name: type(x).__name__ for name, x in inputs.items() if not isinstance(x, torch.Tensor)}:
            raise UserError("the plan takes tensors only", value=others, remedy="Give a tensor for every input")
        device = self._streams.device
        return {name: inputs[name].to(device, tensor.dtype).contiguous() for name, tensor in expected.items()}

    def _use_profile(self, profile: int) -> None:
        if profile != self._profile:
            handle = self._stream.cuda_stream
            self._check(self._context.set_optimization_profile_async(profile, handle), f"profile {profile}")
            self._profile = profile

    def _bind(self, given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        for name, tensor in given.items():
            self._check(self._context.set_input_shape(name, tuple(tensor.shape)), f"shape of {name}")
            self._check(self._context.set_tensor_address(name, tensor.data_ptr()), f"memory of {name}")
        self._infer_shapes()
        return [self._allocate(tensor.name, tensor.dtype) for tensor in self._interface.outputs]

    def _infer_shapes(self) -> None:
        try:
            known = not self._context.infer_shapes()
        except RuntimeError:  # the bindings raise it for sizes that contradict each other
            known = False
        self._check(known, "inference of output shapes")

    def _allocate(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise UserError("the plan's output size depends on values of its inputs", where=name, value=shape)
        result = torch.empty(shape, dtype=dtype, device=self._streams.device)
        self._check(self._context.set_tensor_address(name, result.data_ptr()), f"memory of {name}")
        return result

    def _launch(self, tensors: list[torch.Tensor]) -> None:
        """Enqueue after the caller's work and before what the caller enqueues next.

        The first wait comes after all tensors are made: memory fresh from the caching allocator may still be in use
        by work queued earlier on the caller's stream.
        """
        caller = self._streams.current()
        self._stream.wait_stream(caller)
        for tensor in tensors:
            self._streams.record(tensor, self._stream)
        launched = self._context.execute_async_v3(self._stream.cuda_stream)
        caller.wait_stream(self._stream)
        self._check(launched, "launch")

    def _check(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            reason = error_text(self._logger, last=3)
            raise UserError(f"the plan did not run: {what} failed", where="TensorRT", value=reason)


def _contexts(trt: Any, engine: Any, concurrency: int, *, logger: Any) -> list[Any]:
    """All contexts are created on loading, so that a lack of memory shows then and not under load."""
    if concurrency < 1:
        raise UserError("must be 1 or more", where="tensorrt.concurrency", value=concurrency)
    contexts: list[Any] = []
    while len(contexts) < concurrency:
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.STATIC)
        if context is None:
            raise _too_little_memory(engine, made=len(contexts), wanted=concurrency, reason=error_text(logger, last=2))
        context.nvtx_verbosity = trt.ProfilingVerbosity.NONE  # plans built with DETAILED are slower otherwise
        contexts.append(context)
    return contexts


def _too_little_memory(engine: Any, *, made: int, wanted: int, reason: str) -> UserError:
    needed = max(engine.get_device_memory_size_for_profile_v2(i) for i in range(engine.num_optimization_profiles))
    return UserError(
        f"only {made} of {wanted} execution contexts fit on the GPU",
        value=f"{needed / 2**20:.0f} MiB each; {reason}",
        remedy=f"Set tensorrt.concurrency={made}" if made else "Free GPU memory or build with a smaller maximum",
    )
