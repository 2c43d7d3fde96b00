"""Pages of a mapped checkpoint leave the process once their values are copied, and can be read again."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.models.loading.checkpoint_file import open_dict
from tasks.models.loading.mapped_pages import MappedPages
from tasks.models.loading.strict_loading import load_strictly

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
ROWS, WIDTH, KIB = 4, 2**18, 2**10
TENSOR_KIB = 4 * WIDTH // KIB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a name with spaces.pt"
    rows = torch.arange(ROWS * WIDTH, dtype=torch.float32).reshape(ROWS, WIDTH)
    torch.save({f"rows.{n}": rows[n].clone() for n in range(ROWS)} | {"small": torch.ones(7)}, path)
    return path


def resident_kib(file: Path) -> int:
    """What this process has of a file in memory, by the kernel's account."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def expected(row: int) -> Tensor:
    return torch.arange(row * WIDTH, (row + 1) * WIDTH, dtype=torch.float32)


def test_the_pages_of_a_tensor_are_given_back_and_it_stays_what_it_was(file: Path) -> None:
    tensors = open_dict(file)
    assert all(tensor.sum() > 0 for tensor in tensors.values())
    before = resident_kib(file)
    assert before >= ROWS * TENSOR_KIB
    pages = MappedPages(file)
    pages.give_back(tensors["rows.1"])
    pages.give_back(tensors["small"])  # within a page that others share
    assert resident_kib(file) <= before - TENSOR_KIB + 8
    assert all(torch.equal(tensors[f"rows.{n}"], expected(n)) for n in range(ROWS))
    assert torch.equal(tensors["small"], torch.ones(7))


def test_memory_that_is_not_the_files_is_left_alone(file: Path) -> None:
    tensors = open_dict(file)
    pages = MappedPages(file)
    own, part = torch.ones(WIDTH), tensors["rows.0"].reshape(2, -1).T
    pages.give_back(own)
    pages.give_back(part)  # not contiguous
    MappedPages(file.with_name("other.pt")).give_back(own)
    assert torch.equal(own, torch.ones(WIDTH))


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList([nn.Parameter(torch.empty(WIDTH)) for _ in range(ROWS)])
        self.small = nn.Parameter(torch.empty(7))


def test_a_loaded_module_leaves_nothing_of_the_file_in_memory(file: Path) -> None:
    with torch.device("meta"):
        module = Rows()
    tensors = open_dict(file)
    load_strictly(module, tensors, source=file)
    assert resident_kib(file) < TENSOR_KIB
    assert all(torch.equal(module.rows[n], expected(n)) for n in range(ROWS))
