"""TorchScript export for a device: which operators a file has, how far it is optimised, and where it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.actions.export_torchscript import action as export_torchscript
from tasks.runtimes.torchscript import nodes_of
from tasks.settings.component import ComponentSpec
from tests.support import small_models
from tests.support.errors import error_of
from tests.support.golden_cases import golden_case
from tests.support.torchscript_jobs import export_encoder, export_small


def operators(path: Path) -> set[str]:
    """Every operator that the code in the file calls."""
    graph = torch.jit.load(path).inlined_graph
    return {node.kind() for node in nodes_of(graph)}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_portable_file_has_no_operator_of_one_device(tmp_path: Path, precision: str) -> None:
    facts, path = export_small(tmp_path, "Image", target="portable", precision=precision)
    assert facts["device_specific_ops"] == []
    assert not [op for op in operators(path) if "mkldnn" in op or "prepacked" in op]


def test_onednn_constants_that_could_not_be_read_back_are_left_out(tmp_path: Path) -> None:
    """torch writes them without their value; the file would fail to load."""
    facts, path = export_small(tmp_path, "Image", target="cpu")
    x = torch.randn(1, 3, 8, 8)
    module = small_models.load_component(ComponentSpec("Image"), config=path, weights=tmp_path / "weights.pt")
    torch.testing.assert_close(torch.jit.load(path)(x), module(x), atol=1e-5, rtol=0)
    assert not facts["optimized_for_inference"]


def test_cpu_file_is_optimized_and_its_facts_list_so(exported_encoder: Any) -> None:
    facts, path = exported_encoder(target="cpu")
    assert facts["optimized_for_inference"]
    assert "aten::linear" not in operators(path)  # turned into products with weights transposed beforehand


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_of_a_half_precision_file_for_the_cpu_stay_as_they_are(tmp_path: Path, precision: str) -> None:
    """With the weight transposed they are up to forty times slower."""
    facts, path = export_encoder(tmp_path, target="cpu", precision=precision)
    assert not facts["optimized_for_inference"]
    assert "aten::linear" in operators(path)


def test_device_specific_operators_are_found_wherever_they_are_nested() -> None:
    graph = torch._C.parse_ir(
        """graph(%x : Tensor, %c : bool):
             %y : Tensor = prim::If(%c)
               block0():
                 %n : NoneType = prim::Constant()
                 %a : Tensor = aten::to_mkldnn(%x, %n)
                 -> (%a)
               block1():
                 -> (%x)
             return (%y)"""
    )
    assert export_torchscript._device_specific([graph]) == ["aten::to_mkldnn"]


def test_optimize_false_only_freezes(tmp_path: Path) -> None:
    facts, path = export_encoder(tmp_path, target="cpu", optimize=False)
    assert not facts["optimized_for_inference"]
    assert "aten::linear" in operators(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_target_cuda_without_cuda_is_refused(tmp_path: Path) -> None:
    assert "torchscript.target=portable" in error_of(export_encoder, tmp_path, target="cuda").remedy
    assert list(tmp_path.rglob("*.zip")) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("target", ["portable", "cuda"])
def test_portable_and_cuda_files_run_on_cuda(tmp_path: Path, target: str) -> None:
    _, path = export_encoder(tmp_path, target=target)
    case = golden_case("cosyvoice2", "flow_encoder_full")
    inputs = [case.inputs[name].cuda() for name in ("xs", "xs_lens")]
    ys, _ = torch.jit.load(path, map_location="cuda")(*inputs, streaming=False)
    torch.testing.assert_close(ys.cpu(), case.outputs["ys"], atol=1e-3, rtol=0)


def test_a_device_fixed_in_the_code_is_refused_in_a_portable_file(tmp_path: Path) -> None:
    error = error_of(export_small, tmp_path, "FixedDevice")
    assert "small_models.py" in error.where
    assert error.value == "cpu"
