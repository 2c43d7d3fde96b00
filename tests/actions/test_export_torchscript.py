"""TorchScript export: parity with the original outputs, what the file contains, and where it runs."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.actions.export_torchscript import action as export_torchscript
from tasks.runtimes.torchscript import open_artifact
from tasks.settings.component import ComponentSpec
from tests.support import small_models
from tests.support.errors import error_of
from tests.support.golden_cases import GOLDEN, golden_case, golden_names
from tests.support.torchscript_jobs import ENCODER, LOADER, export_encoder, export_small, job


@pytest.fixture(params=["cpu", "portable"])
def encoder(request: pytest.FixtureRequest, exported_encoder: Any) -> Any:
    """The tiny original encoder in fp32, exported and loaded again."""
    return torch.jit.load(exported_encoder(target=request.param)[1])


@pytest.fixture
def half_encoder(exported_encoder: Any) -> Any:
    return torch.jit.load(exported_encoder(precision="fp16", target="portable")[1])


def call(module: Any, name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    case = golden_case("cosyvoice2", name)
    xs = case.inputs["xs"].to(dtype)
    xs_lens = case.inputs.get("xs_lens", torch.tensor([case.flags.get("xs_lens", 0)], dtype=torch.int32))
    keywords = {"context": case.inputs["context"].to(dtype)} if "context" in case.inputs else {}
    with torch.inference_mode():
        ys, masks = module(xs, xs_lens, streaming=case.flags["streaming"], **keywords)
    return ys, masks, case.outputs


@pytest.mark.parametrize("name", golden_names("cosyvoice2", "flow_encoder"))
def test_exported_encoder_gives_the_original_outputs(encoder: Any, name: str) -> None:
    ys, masks, expected = call(encoder, name)
    torch.testing.assert_close(ys, expected["ys"], atol=1e-4, rtol=0)
    assert torch.equal(masks, expected["masks"])


@pytest.mark.parametrize("name", golden_names("cosyvoice2", "flow_encoder"))
def test_half_precision_encoder_is_near_the_original_outputs(half_encoder: Any, name: str) -> None:
    """Outputs are up to 7 in size, where fp16 steps by 0.004; the rounding of six layers adds up to three steps."""
    ys, masks, expected = call(half_encoder, name, torch.float16)
    assert ys.dtype == torch.float16
    torch.testing.assert_close(ys.float(), expected["ys"], atol=2e-2, rtol=0)
    assert torch.equal(masks, expected["masks"])


def test_bf16_encoder_is_near_the_original_outputs(exported_encoder: Any) -> None:
    _, path = exported_encoder(precision="bf16", target="portable")
    for name in golden_names("cosyvoice2", "flow_encoder"):
        ys, masks, expected = call(torch.jit.load(path), name, torch.bfloat16)
        assert ys.dtype == torch.bfloat16
        torch.testing.assert_close(ys.float(), expected["ys"], atol=0.16, rtol=0)
        assert torch.equal(masks, expected["masks"])


def test_streaming_changes_the_output_of_one_file(encoder: Any) -> None:
    xs, xs_lens = torch.randn(1, 20, 48), torch.tensor([20])
    assert not torch.allclose(encoder(xs, xs_lens, streaming=True)[0], encoder(xs, xs_lens)[0], atol=1e-3)


def test_file_runs_where_this_project_is_not_installed(exported_encoder: Any, tmp_path: Path) -> None:
    _, path = exported_encoder(target="portable")
    program = (
        "import sys, torch; module = torch.jit.load(sys.argv[1]);"
        "ys, masks = module(torch.ones(1, 7, 48), torch.tensor([7]), context=None, streaming=True);"
        "assert ys.shape == (1, 14, 48) and not any(name.split('.')[0] == 'tasks' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", program, path], check=True, cwd=tmp_path)


def test_weights_are_stored_once_and_no_table_of_positions_beside_them(exported_encoder: Any) -> None:
    facts, path = exported_encoder(target="cpu")
    weights = torch.load(GOLDEN / "cosyvoice2" / "flow.pt", weights_only=True)
    expected = sum(tensor.nbytes for name, tensor in weights.items() if name.startswith("encoder."))
    frequencies = weights["encoder.after_norm.weight"].nbytes // 2
    assert facts["weights_bytes"] <= expected + frequencies
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
    (found,) = open_artifact(message.outputs["torchscript"], device="cpu", threads=1)({"x": x})
    torch.testing.assert_close(found, module(x, 3.0))


def test_methods_that_are_not_kept_are_left_out(tmp_path: Path) -> None:
    _, path = export_small(tmp_path, "TwoMethods")
    assert not hasattr(torch.jit.load(path), "forward_chunk")


@pytest.mark.parametrize(("precision", "value"), [("fp32", float("nan")), ("fp16", 1e6)])
def test_weights_that_are_not_finite_in_the_precision_are_named(tmp_path: Path, precision: str, value: float) -> None:
    state = small_models.TwoMethods().state_dict()
    state["second.bias"][3] = value
    torch.save(state, tmp_path / "bad.pt")
    component = {"name": "TwoMethods", "loader": LOADER, "kept_methods": []}
    message = job(tmp_path, component, tmp_path / "bad.pt", tmp_path / "none.yaml", precision=precision)
    error = error_of(export_torchscript.run, message)
    assert (error.where, error.value) == (str(tmp_path / "bad.pt"), "second.bias")


def test_half_precision_weights_are_half(tmp_path: Path) -> None:
    facts, _ = export_small(tmp_path, "TwoMethods", precision="fp16")
    assert facts["weights_bytes"] * 2 == sum(p.nbytes for p in small_models.TwoMethods().parameters())


def test_file_states_what_it_is_and_no_time_or_path(exported_encoder: Any) -> None:
    _, path = exported_encoder(precision="fp16", target="portable")
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


def test_records_lie_where_torch_would_have_put_them(exported_encoder: Any) -> None:
    """A multiple of 64 bytes: readers that map the file rely on it."""
    _, path = exported_encoder(target="portable")
    reader = torch._C.PyTorchFileReader(str(path))
    assert {reader.get_record_offset(name) % 64 for name in reader.get_all_records()} == {0}


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    """In fresh processes, as the workflow builds: PyTorch numbers the classes that a process has scripted."""
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


@pytest.mark.parametrize("kind", ["ddp", "nested", "lightning", "safetensors"])
def test_wrapped_weights_give_the_same_artifact_and_the_results_name_what_was_unwrapped(
    tmp_path: Path, kind: str, exported_encoder: Any
) -> None:
    model, file = GOLDEN / "cosyvoice2", tmp_path / "flow.pt"
    weights = torch.load(model / "flow.pt", weights_only=True)
    contents: dict[str, tuple[dict[str, Any], list[str]]] = {
        "ddp": ({f"module.{n}": t for n, t in weights.items()} | {"epoch": 1}, ["names without 'module.'"]),
        "nested": ({"model": weights, "optimizer": {"state": {}}}, ["left out: optimizer", "read from 'model'"]),
        "lightning": (
            {"state_dict": {f"model.flow.{n}": t for n, t in weights.items()}},
            ["read from 'state_dict'", "names without 'model.flow.'"],
        ),
        "safetensors": (weights, []),
    }
    content, notes = contents[kind]
    if kind == "safetensors":
        save_file(content, file)
    else:
        torch.save(content, file)
    message = job(tmp_path, ENCODER, file, model / "cosyvoice2.yaml")
    assert export_torchscript.run(message).get("unwrapped", {}) == ({"flow.pt": notes} if notes else {})
    name = golden_names("cosyvoice2", "flow_encoder")[0]
    files = (message.outputs["torchscript"], exported_encoder()[1])
    of_wrapped, of_plain = (call(torch.jit.load(file), name)[0] for file in files)
    assert torch.equal(of_wrapped, of_plain)
