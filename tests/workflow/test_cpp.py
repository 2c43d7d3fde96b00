"""Exported TorchScript runs in C++: a program compiled against the libtorch inside the installed torch package."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support.generations import Generation
from tests.support.project import ROOT

WIDTH = 64
NO_CACHE = torch.zeros(0, 0, 0, 0)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the README, compiled with its command."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("cpp")
    command = re.search(r"^TORCH=.*?^g\+\+.*?(?<!\\)$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert command, "the README does not say how to compile the program"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    script = command[0].replace("g++ ", f"g++ -O0 {abi} ").replace("-o forward_chunk", f"-o {folder}/forward_chunk")
    subprocess.run(["bash", "-ec", script], check=True, cwd=ROOT)
    return folder / "forward_chunk"


def in_python(model: torch.jit.ScriptModule) -> list[torch.Tensor]:
    """What the C++ program does."""
    outputs, cache, cnn_cache, offset = [], NO_CACHE, NO_CACHE, 0
    for length in (5, 1):
        numbers = torch.arange(offset * WIDTH, (offset + length) * WIDTH, dtype=torch.float32)
        ys, cache, cnn_cache = model.forward_chunk(
            torch.sin(numbers).view(1, length, WIDTH),
            offset=offset,
            required_cache_size=-1,
            att_cache=cache,
            cnn_cache=cnn_cache,
            att_mask=torch.ones(1, length, length, dtype=torch.bool).tril(),
        )
        outputs.append(ys)
        offset += length
    return [*outputs, cache]


@torch.inference_mode()
def test_forward_chunk_called_twice_from_cpp_gives_what_python_gives(program: Path, cosyvoice1: Generation) -> None:
    path = cosyvoice1.whole / "llm.llm.fp32.zip"
    printed = subprocess.run([program, path, str(WIDTH)], capture_output=True, text=True, check=True).stdout
    found = torch.tensor([float(line) for line in printed.split()])
    expected = torch.cat([output.flatten() for output in in_python(torch.jit.load(path))])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
