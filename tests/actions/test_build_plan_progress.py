"""A build shows its progress, and a signal ends its process at once."""

import errno
import io
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest

from tasks import progress
from tests.support.onnx_samples import small_estimator
from tests.support.plan_jobs import SETTINGS, build, plan_job
from tests.support.tensorrt_simulation import Machine

ROOT = Path(__file__).resolve().parents[2]

ENDLESS_BUILD = f"""
import sys, threading
from pathlib import Path
from tasks.actions.build_plan.builder import PlanRequest, build_engine
from tasks.actions.build_plan.timing_cache import TimingCache
from tasks.runtimes.tensorrt_.library import collecting_logger
from tests.support.tensorrt_simulation import Machine

def build(*arguments):
    print("building", flush=True)
    while True:
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass  # as C++, which does not return for what Python's handler does

machine = Machine()
machine.bindings.behaviours["Builder.build_serialized_network"] = build
request = PlanRequest(Path(sys.argv[1]), "", [], {SETTINGS}, 1)
cache = TimingCache(None, tensorrt="10", gpu="gpu")
build_engine(machine.trt, request, logger=collecting_logger(machine.trt), cache=cache)
"""


def test_sigint_ends_the_process_in_the_middle_of_a_build(tmp_path):
    model = small_estimator()
    for value in (*model.graph.input[:2], *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_value = 8  # static, so it needs no profile
    onnx.save(model, tmp_path / "small.onnx")
    command = [sys.executable, "-c", ENDLESS_BUILD, str(tmp_path / "small.onnx")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "building\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=300) == -signal.SIGINT
        finally:
            process.kill()


def test_signal_handlers_are_restored_after_a_build(tmp_path):
    machine, during = Machine(), []
    numbers = (signal.SIGINT, signal.SIGTERM)
    machine.faults.on_step = lambda step: during.extend(signal.getsignal(number) for number in numbers)
    before = [signal.getsignal(number) for number in numbers]
    build(machine, plan_job(tmp_path))
    assert set(during) == {signal.SIG_DFL}
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_build_in_another_thread_leaves_the_signals_alone(tmp_path):
    machine, during = Machine(), []
    machine.faults.on_step = lambda step: during.append(signal.getsignal(signal.SIGINT))
    with ThreadPoolExecutor(1) as thread:
        thread.submit(build, machine, plan_job(tmp_path)).result()
    assert set(during) == {signal.getsignal(signal.SIGINT)}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _LostTerminal(_Terminal):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "terminal is gone")


class _LostLog(_LostTerminal):
    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(("where", "shown"), [(_Terminal, "Building Engine: "), (io.StringIO, "TensorRT: Building")])
def test_progress_is_shown_where_a_step_shows_its_own_and_not_in_its_log(tmp_path, monkeypatch, capfd, where, shown):
    monkeypatch.setattr("tasks.actions.build_plan.progress.LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("tasks.progress._output", where())
    build(Machine(), plan_job(tmp_path))
    assert shown in progress.output().getvalue()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("where", [_LostTerminal, _LostLog])
def test_progress_that_cannot_be_shown_does_not_end_the_build(tmp_path, monkeypatch, where):
    monkeypatch.setattr("tasks.actions.build_plan.progress.LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("tasks.progress._output", where())
    job = plan_job(tmp_path)
    warnings = build(Machine(), job)["warnings"]
    assert job.outputs["plan"].stat().st_size > 0
    assert warnings == []  # it is lost in silence
