"""Where everything is stored under the artifacts folder; nothing else builds a path there.

The names are those CosyVoice's own loader looks for, so that a folder of artifacts drops into a deployment.
"""

import re
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


def timing_caches(root: Path) -> Path:
    return state_folder(root) / "timing-caches"


def lock_path(root: Path, step: str) -> Path:
    return state_folder(root) / "locks" / f"{file_safe(step)}.lock"


def request_path(root: Path, step: str) -> Path:
    return state_folder(root) / "requests" / f"{file_safe(step)}.json"


def log_path(root: Path, step: str) -> Path:
    return state_folder(root) / "logs" / f"{file_safe(step)}.log"


def digest_memo(root: Path) -> Path:
    return state_folder(root) / "digests.json"


def file_safe(name: str) -> str:
    """`name` with everything that is not allowed or awkward in a file name made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
