"""TorchScript export: parity with the published outputs, what the file holds, and where it runs."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.actions.export_torchscript import action as export_torchscript
from tasks.errors import UserError
from tasks.job import Job
from tasks.runtimes.torchscript import open_artifact
from tasks.settings.component import ComponentSpec
from tests.support import small_models
from tests.support.golden_cases import GOLDEN, golden_case, golden_names

LOADER = f"{small_models.__name__}:load_component"
ENCODER = {
    "name": "flow.encoder",
    "part": "flow",
    "loader": "tasks.models.cosyvoice.folder:load_component",
    "kept_methods": [],
}


def job(folder: Path, component: dict[str, Any], weights: Path, config: Path, **settings: Any) -> Job:
    precision = settings.pop("precision", "fp32")
    (folder / precision).mkdir(parents=True, exist_ok=True)
    return Job(
        step=f"export_jit:test/{component['name']}.{precision}",
        action="tasks.actions.export_torchscript.action:run",
        inputs={"config": config, "weights": weights},
        outputs={"zip": folder / precision / f"{component['name']}.{precision}.zip"},
        params={
            "component": {"options": {}} | component,
            "precision": {"name": precision},
            "torchscript": {"target": "portable", "optimize": True} | settings,
        },
    )


def export_encoder(folder: Path, **settings: Any) -> tuple[dict[str, Any], Path]:
    model = GOLDEN / "cosyvoice2"
    message = job(folder, ENCODER, model / "flow.pt", model / "cosyvoice2.yaml", **settings)
    return export_torchscript.run(message), message.outputs["zip"]


def export_small(folder: Path, name: str, kept_methods: tuple[str, ...] = (), **settings: Any) -> tuple[Any, Path]:
    torch.manual_seed(0)
    module: nn.Module = getattr(small_models, name)()
    torch.save(module.state_dict(), folder / "weights.pt")
    component = {"name": name, "loader": LOADER, "kept_methods": list(kept_methods)}
    message = job(folder, component, folder / "weights.pt", folder / "none.yaml", **settings)
    return export_torchscript.run(message), message.outputs["zip"]


@pytest.fixture(scope="module", params=["cpu", "portable"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The tiny published encoder in fp32, exported and loaded again."""
    _, path = export_encoder(tmp_path_factory.mktemp("encoder"), target=request.param)
    return torch.jit.load(path)


@pytest.fixture(scope="module")
def half_encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    _, path = export_encoder(tmp_path_factory.mktemp("half"), precision="fp16")
    return torch.jit.load(path)


def call(module: Any, name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    case = golden_case("cosyvoice2", name)
    xs = case.inputs["xs"].to(dtype)
    xs_lens = case.inputs.get("xs_lens", torch.tensor([case.flags.get("xs_lens", 0)], dtype=torch.int32))
    keywords = {"context": case.inputs["context"].to(dtype)} if "context" in case.inputs else {}
    with torch.inference_mode():
        ys, masks = module(xs, xs_lens, streaming=case.flags["streaming"], **keywords)
    return ys, masks, case.outputs


@pytest.mark.parametrize("name", golden_names("cosyvoice2", "flow_encoder"))
def test_exported_encoder_gives_the_published_outputs(encoder: Any, name: str) -> None:
    ys, masks, expected = call(encoder, name)
    torch.testing.assert_close(ys, expected["ys"], atol=1e-4, rtol=0)
    assert torch.equal(masks, expected["masks"])


@pytest.mark.parametrize("name", golden_names("cosyvoice2", "flow_encoder"))
def test_half_precision_encoder_is_near_the_published_outputs(half_encoder: Any, name: str) -> None:
    """Outputs are up to 7 in size, where fp16 steps by 0.004; the rounding of six layers adds up to three steps."""
    ys, masks, expected = call(half_encoder, name, torch.float16)
    assert ys.dtype == torch.float16
    torch.testing.assert_close(ys.float(), expected["ys"], atol=2e-2, rtol=0)
    assert torch.equal(masks, expected["masks"])


def test_bf16_encoder_is_near_the_published_outputs(tmp_path: Path) -> None:
    _, path = export_encoder(tmp_path, precision="bf16")
    for name in golden_names("cosyvoice2", "flow_encoder"):
        ys, masks, expected = call(torch.jit.load(path), name, torch.bfloat16)
        assert ys.dtype == torch.bfloat16
        torch.testing.assert_close(ys.float(), expected["ys"], atol=0.16, rtol=0)
        assert torch.equal(masks, expected["masks"])


def test_streaming_changes_the_output_of_one_file(encoder: Any) -> None:
    xs, xs_lens = torch.randn(1, 20, 48), torch.tensor([20])
    assert not torch.allclose(encoder(xs, xs_lens, streaming=True)[0], encoder(xs, xs_lens)[0], atol=1e-3)


def test_file_runs_where_this_project_is_not_installed(tmp_path: Path) -> None:
    _, path = export_encoder(tmp_path)
    program = (
        "import sys, torch; module = torch.jit.load(sys.argv[1]);"
        "ys, masks = module(torch.ones(1, 7, 48), torch.tensor([7]), context=None, streaming=True);"
        "assert ys.shape == (1, 14, 48) and not any(name.split('.')[0] == 'tasks' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", program, path], check=True, cwd=tmp_path)


def test_weights_are_stored_once_and_no_table_beside_them(tmp_path: Path) -> None:
    facts, path = export_encoder(tmp_path, target="cpu")
    weights = torch.load(GOLDEN / "cosyvoice2" / "flow.pt", weights_only=True)
    expected = sum(tensor.nbytes for name, tensor in weights.items() if name.startswith("encoder."))
    assert facts["weights_bytes"] <= expected
    assert facts["bytes"] == path.stat().st_size


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_kept_methods_share_the_weights_of_forward(tmp_path: Path, target: str) -> None:
    facts, _ = export_small(tmp_path, "TwoMethods", ("forward_chunk",), target=target)
    assert facts["weights_bytes"] == sum(p.nbytes for p in small_models.TwoMethods().parameters())


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_kept_methods_stay_callable(tmp_path: Path, target: str) -> None:
    _, path = export_small(tmp_path, "TwoMethods", ("forward_chunk",), target=target)
    module = small_models.load_component(ComponentSpec("TwoMethods"), config=path, weights=tmp_path / "weights.pt")
    x, cache = torch.randn(2, 1, small_models.WIDTH), torch.randn(2, 1, small_models.WIDTH)
    exported = torch.jit.load(path)
    torch.testing.assert_close(exported.forward_chunk(x, cache=cache), module.forward_chunk(x, cache))
    torch.testing.assert_close(exported(x, scale=2.0), module(x, 2.0))


def test_a_runtime_calls_a_file_with_the_options_it_was_exported_for(tmp_path: Path) -> None:
    module = small_models.TwoMethods().eval()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    component = {"name": "TwoMethods", "loader": LOADER, "kept_methods": []}
    message = job(tmp_path, component | {"options": {"scale": 3.0}}, tmp_path / "weights.pt", tmp_path / "none.yaml")
    export_torchscript.run(message)
    x = torch.randn(2, small_models.WIDTH)
    (found,) = open_artifact(message.outputs["zip"], device="cpu", threads=1)({"x": x})
    torch.testing.assert_close(found, module(x, 3.0))


def test_methods_that_are_not_kept_are_left_out(tmp_path: Path) -> None:
    _, path = export_small(tmp_path, "TwoMethods")
    assert not hasattr(torch.jit.load(path), "forward_chunk")


def operators(path: Path) -> set[str]:
    """Every operator that the code in the file calls."""
    graph = torch.jit.load(path).inlined_graph
    return {node.kind() for node in export_torchscript._nodes(graph)}


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


def test_cpu_file_is_optimized_and_its_facts_say_so(tmp_path: Path) -> None:
    facts, path = export_encoder(tmp_path, target="cpu")
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
    with pytest.raises(UserError, match=r"target=cuda.*Set torchscript.target=portable"):
        export_encoder(tmp_path, target="cuda")
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
    with pytest.raises(UserError, match=r"small_models.py.*takes a fixed device.*got cpu"):
        export_small(tmp_path, "FixedDevice")


@pytest.mark.parametrize(("precision", "value"), [("fp32", float("nan")), ("fp16", 1e6)])
def test_weights_that_are_not_finite_in_the_precision_are_named(tmp_path: Path, precision: str, value: float) -> None:
    state = small_models.TwoMethods().state_dict()
    state["second.bias"][3] = value
    torch.save(state, tmp_path / "bad.pt")
    component = {"name": "TwoMethods", "loader": LOADER, "kept_methods": []}
    message = job(tmp_path, component, tmp_path / "bad.pt", tmp_path / "none.yaml", precision=precision)
    with pytest.raises(UserError, match=rf"bad.pt: weights are NaN or infinite in {precision} .got second.bias"):
        export_torchscript.run(message)


def test_half_precision_weights_are_half(tmp_path: Path) -> None:
    facts, _ = export_small(tmp_path, "TwoMethods", precision="fp16")
    assert facts["weights_bytes"] * 2 == sum(p.nbytes for p in small_models.TwoMethods().parameters())


def test_file_tells_what_it_is_and_no_time_or_path(tmp_path: Path) -> None:
    _, path = export_encoder(tmp_path, precision="fp16")
    extra = {"voxkiln.json": ""}
    torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["voxkiln.json"]) == {
        "component": "flow.encoder",
        "options": {},
        "precision": "fp16",
        "target": "portable",
        "torch": torch.__version__,
    }
    with zipfile.ZipFile(path) as archive:
        assert not [
            name for name in archive.namelist() if str(Path(__file__).parents[2]).encode() in archive.read(name)
        ]
        assert {record.date_time for record in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_records_lie_where_torch_would_have_put_them(tmp_path: Path) -> None:
    """A multiple of 64 bytes: readers that map the file rely on it."""
    _, path = export_encoder(tmp_path)
    reader = torch._C.PyTorchFileReader(str(path))
    assert {reader.get_record_offset(name) % 64 for name in reader.get_all_records()} == {0}


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys; from tests.actions import test_export_torchscript as exports;"
        "exports.export_encoder(Path(sys.argv[1]), target='cpu')"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", program, tmp_path / name], check=True)
    one, other = ((tmp_path / name / "fp32" / "flow.encoder.fp32.zip").read_bytes() for name in ("a", "b"))
    assert one == other


def test_nothing_but_the_file_is_left_behind(tmp_path: Path) -> None:
    _, path = export_encoder(tmp_path)
    assert list(path.parent.iterdir()) == [path]
