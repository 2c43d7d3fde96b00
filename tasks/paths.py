"""Where everything is stored under the artifacts folder; nothing else builds a path there.

The names are those CosyVoice's own loader looks for, so that a folder of artifacts drops into a deployment.
"""

from dataclasses import dataclass
from pathlib import Path

STATE = ".voxkiln"  # caches and locks; safe to delete when nothing runs


@dataclass(frozen=True)
class ArtifactPaths:
    """Paths of one model's artifacts under `root`."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        return self.root / self.model

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / "train" / f"epoch_{epoch}_whole.pt"

    def averaged(self, part: str) -> Path:
        return self.folder / "averaged" / f"{part}.pt"

    def torchscript(self, component: str, precision: str) -> Path:
        return self.folder / f"{component}.{precision}.zip"

    def onnx(self, component: str, precision: str) -> Path:
        return self.folder / f"{component}.{precision}.onnx"

    def plan(self, component: str, precision: str, gpu: str) -> Path:
        return self.folder / f"{component}.{precision}.{gpu}.plan"

    @property
    def vllm(self) -> Path:
        return self.folder / "vllm"

    def recorded(self, component: str) -> Path:
        return self.folder / "recorded" / f"{component}.pt"

    def preflight(self, artifact: Path) -> Path:
        return self.folder / "preflight" / f"{artifact.name}.json"

    def report(self, artifact: Path) -> Path:
        return self.folder / "verify" / f"{artifact.name}.json"


def failed_report(artifact: Path) -> Path:
    """Where the report of a failed verification is kept: the report proper is only written if it passes."""
    return artifact.with_name(f"{artifact.name}.failed-verification.json")


def state_folder(root: Path) -> Path:
    return root / STATE


def sockets(root: Path) -> Path:
    return state_folder(root) / "sockets"


def timing_caches(root: Path) -> Path:
    return state_folder(root) / "timing-caches"


def lock_path(root: Path, step: str) -> Path:
    return _of_step(root, "locks", step, ".lock")


def request_path(root: Path, step: str) -> Path:
    return _of_step(root, "requests", step, ".json")


def log_path(root: Path, step: str) -> Path:
    return _of_step(root, "logs", step, ".log")


def digest_memo(root: Path) -> Path:
    return state_folder(root) / "digests.json"


def _of_step(root: Path, kind: str, step: str, suffix: str) -> Path:
    """A file of one step alone: ``export_onnx:demo/flow.fp32`` -> ``locks/export_onnx/demo/flow.fp32.lock``."""
    stage, _, name = step.partition(":")
    return state_folder(root) / kind / stage / f"{name}{suffix}"
