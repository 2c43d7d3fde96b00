"""Runs an export script of a CosyVoice checkout as it is, with those parts of the model whose weights are in a folder.

    PYTHON tests/benchmarks/published.py CHECKOUT export_onnx FOLDER OUTPUT

PYTHON is one that has what the checkout needs; nothing of this project is imported. The script's own main() runs.
Around it: the model is built without the front end, libraries that no export uses need not be installed, the lengths
that it draws are the same every time, and torch.onnx.export is called with dynamo=False, because the script was written
for a PyTorch whose default that was and fails with today's.
"""

import argparse
import functools
import importlib
import importlib.abc
import random
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch

# Imported by modules of the checkout that an export loads, and never called by it.
UNUSED = ("gdown", "inflect", "lightning", "librosa", "matplotlib", "modelscope", "pyworld", "torchaudio", "wget",
          "whisper")  # fmt: skip
SEED = 1  # ten lengths whose mean and mean square are within 1.5 % of what can be expected
CLASSES = {"cosyvoice": "CosyVoice", "cosyvoice2": "CosyVoice2", "cosyvoice3": "CosyVoice3"}
PARTS = ("llm", "flow", "hift")
NOT_PARTS = ("hifigan", "mel_spec_transform1", "get_tokenizer", "feat_extractor")  # of training and of the front end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("script", choices=["export_jit", "export_onnx"])
    parser.add_argument("folder", type=Path, help="a model folder: NAME.yaml, flow.pt, ...")
    parser.add_argument("output", type=Path, help="the folder in which the script writes its files")
    options = parser.parse_args()
    _find_checkout(options.checkout)
    _replace_loader(options.folder)
    _export_as_before()
    script = importlib.import_module(f"cosyvoice.bin.{options.script}")
    random.seed(SEED)
    sys.argv = [options.script, "--model_dir", str(options.output)]
    script.main()


def _find_checkout(checkout: Path) -> None:
    sys.path[:0] = [str(checkout), str(checkout / "third_party" / "Matcha-TTS")]
    sys.meta_path.append(_UnusedLibraries())


class _UnusedLibraries(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last: modules of libraries that are not installed, whose every name is an object that accepts anything."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in UNUSED:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Unused(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Unused(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: args[0] if args else None  # also serves as a decorator


def _replace_loader(folder: Path) -> None:
    """cosyvoice.cli.cosyvoice, from which the scripts take AutoModel, reads the files of the front end as well."""
    loader = types.ModuleType("cosyvoice.cli.cosyvoice")
    loader.AutoModel = lambda model_dir: _model(folder)
    sys.modules[loader.__name__] = loader


def _model(folder: Path) -> Any:
    from hyperpyyaml import load_hyperpyyaml

    (config,) = folder.glob("*.yaml")
    parts = [part for part in PARTS if (folder / f"{part}.pt").is_file()]
    settings = dict.fromkeys({*PARTS, *NOT_PARTS} - set(parts))
    if "qwen_pretrain_path" in config.read_text():
        settings["qwen_pretrain_path"] = str(folder / "CosyVoice-BlankEN")
    with config.open() as file:
        configs = load_hyperpyyaml(file, overrides=settings, overrides_must_match=False)
    model = types.SimpleNamespace(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for part in parts:
        weights = torch.load(folder / f"{part}.pt", map_location=model.device, weights_only=True)
        configs[part].load_state_dict(weights, strict=True)
        setattr(model, part, configs[part].to(model.device).eval())
    whole = type(CLASSES[config.stem], (), {})()
    whole.model = model
    return whole


def _export_as_before() -> None:
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)


if __name__ == "__main__":
    main()
