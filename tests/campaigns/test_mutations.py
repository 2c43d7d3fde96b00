"""Mutated inputs end in a result or in one clear error: no other exception, no hang, no gigabyte of memory.

Seeded; the seeds can be changed by VOXKILN_SEED to look further.
"""

import io
import json
import os
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks import checkpoints
from tasks.errors import UserError
from tasks.freshness.receipt import Ingredients, Receipt
from tasks.models.cosyvoice.folder import load_component
from tasks.models.cosyvoice.text.qwen_tokenizer import QwenTokenizer
from tasks.models.loading.checkpoint_file import open_checkpoint
from tasks.plain_data import flat, plain
from tasks.runtimes.onnxruntime_ import contents, session
from tasks.settings.compose import load
from tests.support.exports import Exports
from tests.support.folders import component, config_of, weights_of
from tests.support.golden_cases import GOLDEN
from tests.support.mutations import JSON_VALUES, VALUES, mutated_bytes, mutated_json, mutated_state, mutated_yaml
from tests.support.onnx_jobs import small_export_job
from tests.support.steps import FAMILIES

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("VOXKILN_SEED", "0"))
LONGEST_SECONDS, LONGEST_MESSAGE, MOST_MEMORY_MB = 30, 4000, 1000
QWEN = "CosyVoice-BlankEN"

Attempt = Callable[[random.Random, Path], object]


def a_yaml(dice: random.Random, folder: Path) -> object:
    family = dice.choice(FAMILIES)
    text = config_of(family).read_text(encoding="utf-8")
    path = folder / config_of(family).name
    if dice.random() < 0.3:
        path.write_bytes(mutated_bytes(text.encode(), dice))
    else:
        path.write_text(mutated_yaml(text, dice), encoding="utf-8", errors="surrogatepass")
    name = dice.choice(["flow.decoder.estimator", "hift"])
    return load_component(component(name), config=path, weights=weights_of(family, name.partition(".")[0]))


def weights(dice: random.Random, folder: Path) -> object:
    family = dice.choice(FAMILIES)
    path = folder / "flow.pt"
    if dice.random() < 0.5:
        path.write_bytes(mutated_bytes(weights_of(family).read_bytes(), dice))
    else:
        buffer = io.BytesIO()
        torch.save(mutated_state(open_checkpoint(weights_of(family)), dice), buffer)
        path.write_bytes(buffer.getvalue())
    return load_component(component("flow.decoder.estimator"), config=config_of(family), weights=path)


def a_sidecar(dice: random.Random, folder: Path) -> object:
    for epoch in range(3):
        shutil.copy(GOLDEN / f"average/epoch_{epoch}_whole.yaml", folder)
        (folder / f"epoch_{epoch}_whole.pt").touch()
    path = folder / "epoch_0_whole.yaml"
    text = path.read_text(encoding="utf-8")
    mutated = mutated_yaml(text, dice).encode(errors="surrogatepass")
    path.write_bytes(mutated if dice.random() < 0.5 else mutated_bytes(text.encode(), dice))
    return checkpoints.select(checkpoints.survey(folder), num=2, val_best=dice.random() < 0.5)


def a_tokenizer(dice: random.Random, folder: Path) -> object:
    shutil.copytree(GOLDEN / "cosyvoice2" / QWEN, folder, dirs_exist_ok=True)
    path = dice.choice(sorted(path for path in folder.iterdir() if path.suffix in {".json", ".txt"}))
    if path.suffix == ".json" and dice.random() < 0.6:
        path.write_text(json.dumps(mutated_json(json.loads(path.read_text(encoding="utf-8")), dice)))
    else:
        path.write_bytes(mutated_bytes(path.read_bytes(), dice))
    return QwenTokenizer(token_path=folder).encode("hello 你好")


def a_receipt(dice: random.Random, folder: Path) -> object:
    digest, path = "0" * 64, folder / "a.receipt.json"
    sound = Receipt("s:m", Ingredients("a:run", {"n": 1}, {"w": digest}, {"torch": "2"}, {"a": ""}), {}, {}, {})
    Receipt(sound.step, sound.ingredients, {"a": {"sha256": digest, "size": 1}}, {}, {}).write(path)
    text = path.read_text()
    mutated = json.dumps(mutated_json(json.loads(text), dice)).encode()
    path.write_bytes(mutated if dice.random() < 0.7 else mutated_bytes(text.encode(), dice))
    receipt = Receipt.read(path, [folder / "a"])
    assert receipt is None or receipt.outputs["a"].keys() == {"sha256", "size"}
    return receipt


def settings(dice: random.Random, folder: Path) -> object:
    (base,) = load(["model=cosyvoice2", f"model.dir={folder}"], workdir=folder)
    words = ["model=cosyvoice2", f"model.dir={folder}"] if dice.random() < 0.7 else []
    for _ in range(dice.choice([1, 1, 2])):
        value = dice.choice([*VALUES, *map(str, JSON_VALUES), "range(0,1000000000)", "a,b", "${nope}", "~nosuchuser/x"])
        words.append(f"{dice.choice(['', '', '', '+', '++', '~'])}{dice.choice(list(flat(plain(base))))}={value}")
    return load(words, workdir=folder)


ATTEMPTS: list[tuple[Attempt, int]] = [
    (a_yaml, 300), (weights, 300), (a_sidecar, 200), (a_tokenizer, 150), (a_receipt, 500), (settings, 150),
]  # fmt: skip


def outcome(attempt: Attempt, dice: random.Random, folder: Path) -> str:
    started = time.monotonic()
    try:
        attempt(dice, folder)
        found = "accepted"
    except UserError as error:
        text = str(error).encode("utf-8").decode()
        # Settings are reported with one line for each problem.
        sound = len(text) <= LONGEST_MESSAGE and (attempt is settings or "\n" not in text)
        found = "refused" if sound else f"unclear: {text[:300]}"
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:300]}"
    return found if time.monotonic() - started < LONGEST_SECONDS else f"slow, {found}"


@pytest.mark.parametrize(("attempt", "count"), ATTEMPTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_mutated_inputs_are_accepted_or_refused_clearly(attempt: Attempt, count: int, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir()
        counts[outcome(attempt, random.Random(f"{SEED}/{attempt.__name__}/{number}"), folder)] += 1
        shutil.rmtree(folder)
    print(f"\nmutations of {attempt.__name__}: {dict(counts)}")
    assert counts.keys() <= {"accepted", "refused"}
    assert counts["refused"] or attempt is a_receipt


def test_mutated_onnx_files_are_read_or_refused_clearly(exports: Exports, tmp_path: Path) -> None:
    sound = exports(small_export_job("Plain", tmp_path)).read_bytes()

    def a_file(dice: random.Random, folder: Path) -> object:
        path = folder / "m.onnx"
        path.write_bytes(mutated_bytes(sound, dice))
        contents.contents(path)
        return session.open_artifact(path, device="cpu")

    counts: Counter[str] = Counter()
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        counts[outcome(a_file, random.Random(f"{SEED}/onnx/{number}"), tmp_path / str(number))] += 1
    print(f"\nmutations of ONNX files: {dict(counts)}")
    assert counts.keys() <= {"accepted", "refused"}


def test_all_of_it_took_less_than_a_gigabyte() -> None:
    """Peak of the process that ran the tests before this one; torch alone takes a third of it."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 < MOST_MEMORY_MB
