"""TorchScript exports of the tiny original encoder and of small modules, with any setting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.actions.export_torchscript import action as export_torchscript
from tasks.job import Job
from tests.support import small_models
from tests.support.golden_cases import GOLDEN
from tests.support.made_once import made_once

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
        outputs={"torchscript": folder / precision / f"{component['name']}.{precision}.zip"},
        params={
            "component": {"options": {}} | component,
            "precision": {"name": precision},
            "torchscript": {"target": "portable", "optimize": True} | settings,
        },
    )


def export_encoder(folder: Path, **settings: Any) -> tuple[dict[str, Any], Path]:
    model = GOLDEN / "cosyvoice2"
    message = job(folder, ENCODER, model / "flow.pt", model / "cosyvoice2.yaml", **settings)
    return export_torchscript.run(message), message.outputs["torchscript"]


def export_small(folder: Path, name: str, kept_methods: tuple[str, ...] = (), **settings: Any) -> tuple[Any, Path]:
    torch.manual_seed(0)
    module: nn.Module = getattr(small_models, name)()
    torch.save(module.state_dict(), folder / "weights.pt")
    component = {"name": name, "loader": LOADER, "kept_methods": list(kept_methods)}
    message = job(folder, component, folder / "weights.pt", folder / "none.yaml", **settings)
    return export_torchscript.run(message), message.outputs["torchscript"]


@pytest.fixture
def exported_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], Path]]:
    """The tiny original encoder exported with some settings, once for all tests, which do not change it."""

    def export(**settings: Any) -> tuple[dict[str, Any], Path]:
        def make(root: Path) -> None:
            facts, path = export_encoder(root, **settings)
            (root / "made.json").write_text(json.dumps([facts, str(path)]))

        name = "-".join(["zip", *(f"{name}={value}" for name, value in sorted(settings.items()))])
        facts, path = json.loads((made_once(tmp_path_factory, name, make) / "made.json").read_text())
        return facts, Path(path)

    return export
