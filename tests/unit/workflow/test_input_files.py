"""What a model folder lacks is reported before anything runs: one line for each cause, however many steps read it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.pipeline.graph import build
from tasks.pipeline.graph_inputs import GraphInputs, Machine
from tasks.pipeline.stages.table import STAGES
from tasks.workflow.input_files import absent, check_inputs
from tasks.workflow.model_folder import load_settings
from tasks.workflow.part_files import check_parts
from tests.support.project import GOLDEN

FLOW = "flow.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for CosyVoice 1 whose weights are somebody else's business."""
    shutil.copy(GOLDEN / "cosyvoice1" / "cosyvoice.yaml", tmp_path)
    return tmp_path


def problems(folder: Path, *words: str) -> list[str]:
    (config,) = load_settings(["model=cosyvoice", f"model.dir={folder}", *words], workdir=Path("/w"))
    given = GraphInputs(config, Machine(), {}, absent(config))
    try:
        check_parts([given], words)
        check_inputs(build(given, STAGES))
    except ConfigError as error:
        return error.problems
    return []


def test_files_that_a_folder_may_have_are_inputs_where_it_has_them(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "cosyvoice2", tmp_path / "model"))
    words = ["model=cosyvoice2", f"model.dir={folder}"]
    tokenizer = folder / "CosyVoice-BlankEN/tokenizer.json"
    for given in (False, True):
        tokenizer.write_text("{}") if given else tokenizer.unlink(missing_ok=True)
        (config,) = load_settings(words, workdir=Path("/w"))
        steps = build(GraphInputs(config, Machine(), {}, absent(config)), STAGES)
        assert {step.stage for step in steps if tokenizer in step.inputs.values()} == (
            {"export_vllm", "verify_vllm"} if given else set()
        )


def test_a_part_that_is_not_there_is_skipped(folder: Path) -> None:
    (folder / FLOW).touch()
    assert problems(folder) == []


def test_a_yaml_of_another_name_is_one_line(folder: Path) -> None:
    (folder / FLOW).touch()
    (folder / "cosyvoice.yaml").rename(folder / "config.yaml")
    assert problems(folder) == [
        f"model.dir={folder}: has no cosyvoice.yaml; there is config.yaml: set model.config=config.yaml"
    ]
    assert problems(folder, "model.config=config.yaml") == []


def test_a_folder_without_any_weights_is_one_line(folder: Path) -> None:
    remedy = "put in what is to be exported, or name a file of another name: model.parts.PART=FILE"
    assert problems(folder) == [f"model.dir={folder}: has no flow.pt, hift.pt, llm.pt; {remedy}"]
    (folder / "cosyvoice.yaml").unlink()
    assert problems(folder) == [
        f"model.dir={folder}: has no cosyvoice.yaml and no other YAML; give the folder that contains it"
    ]


SET = "model.parts.flow=flow_best.pt"


@pytest.mark.parametrize("others", [(), ("hift.pt",)])
@pytest.mark.parametrize(
    ("there", "words", "problem"),
    [
        (["flow.pth"], (), "model.dir=DIR: has no flow.pt; there is flow.pth: set model.parts.flow=flow.pth"),
        (
            ["flow.bin", "Flow.ckpt"],
            (),
            "model.dir=DIR: has no flow.pt; there is Flow.ckpt, flow.bin: "
            "set model.parts.flow=Flow.ckpt or model.parts.flow=flow.bin",
        ),
        (["flow.pt"], (SET,), f"{SET}: no such file in DIR; there is flow.pt: set model.parts.flow=flow.pt"),
        ([], (SET,), f"{SET}: no such file in DIR"),
        ([], ("model.parts={flow: flow_best.pt}",), f"{SET}: no such file in DIR"),
        (["flow_best.pth"], (SET,), f"{SET}: no such file in DIR; there is flow_best.pth: set {SET}h"),
        (["sub/a.pth"], ("model.parts.flow=sub/a.pt",), "model.parts.flow=sub/a.pt: no such file in DIR/sub; "
        "there is a.pth: set model.parts.flow=sub/a.pth"),
    ],
)  # fmt: skip
def test_weights_under_another_name_than_the_one_that_is_set_or_usual_are_named(
    folder: Path, others: tuple[str, ...], there: list[str], words: tuple[str, ...], problem: str
) -> None:
    for name in (*there, *others):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert problems(folder, *words) == [problem.replace("DIR", str(folder))]


def test_weights_in_several_files_come_with_the_command_that_joins_them(folder: Path) -> None:
    for name in ("flow-00001-of-00002.safetensors", "flow-00002-of-00002.safetensors", "hift.pt"):
        (folder / name).touch()
    (line,) = problems(folder)
    assert line.startswith(f"model.dir={folder}: has no flow.pt; there are 2 pieces, flow-00001-of-00002.safetensors")
    assert f"{folder}/flow.joined.pt" in line
    assert "set model.parts.flow=flow.joined.pt" in line


def test_a_part_that_is_averaged_need_not_be_in_the_folder_under_any_name(folder: Path) -> None:
    (folder / "flow.pth").touch()
    (config,) = load_settings(["model=cosyvoice", f"model.dir={folder}"], workdir=Path("/w"))
    check_parts([GraphInputs(config, Machine(), {"flow": [Path("/c/epoch_1_whole.pt")]})], [SET])


def test_a_yaml_that_cannot_be_one_is_not_even_hashed(folder: Path) -> None:
    (folder / FLOW).touch()
    with (folder / "cosyvoice.yaml").open("ab") as file:
        file.truncate(100 * 2**30)
    (line,) = problems(folder)
    assert "cosyvoice.yaml has more than 1048576 bytes" in line


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["fifo", "folder"])
def test_what_is_no_regular_file_is_named(folder: Path, make: Callable[[Path], None]) -> None:
    (folder / FLOW).touch()
    (folder / "cosyvoice.yaml").unlink()
    make(folder / "cosyvoice.yaml")
    (line,) = problems(folder)
    assert f"{folder}/cosyvoice.yaml: is a " in line
    assert "not a regular file" in line


def test_a_folder_that_is_not_there_and_one_that_is_not_given() -> None:
    assert problems(Path("/nowhere")) == ["model.dir=/nowhere: no such folder"]
    assert problems(Path("/nowhere"), "model.dir=null") == [
        "model.dir: not given; cosyvoice is read from it: set model.dir=DIR"
    ]
