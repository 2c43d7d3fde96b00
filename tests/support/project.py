"""A private copy of the project, driven through the real doit command as a user would."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DECISIONS = Path(__file__).with_name("print_decisions.py")
HANGS_AFTER_SECONDS = 3600  # only a run that never ends takes so long, however busy the machine is


@dataclass(frozen=True)
class Result:
    """What one command printed and how it ended."""

    code: int
    out: str
    err: str

    def steps(self, word: str) -> set[str]:
        """The steps that a run reported as build, reuse, fresh, skip or FAIL (or `why` as stale)."""
        return set(re.findall(rf"^{word}\s+(\S+:\S+)", self.out, re.MULTILINE))


@dataclass
class Project:
    """A checkout of its own, so that code, settings and artifacts can be changed freely."""

    root: Path
    settings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # what the command line begins with

    @classmethod
    def copy_to(cls, root: Path, *settings: str, of: Path = ROOT) -> "Project":
        """A copy of this checkout, or of another one."""
        root.mkdir(parents=True, exist_ok=True)
        for name in ("tasks", "conf"):
            shutil.copytree(of / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dodo.py", "pyproject.toml"):
            shutil.copy(of / name, root / name)
        return cls(root, settings)

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def doit(self, *words: str) -> Result:
        """Run doit to its end."""
        return self.end_of(self.start(*words))

    def end_of(self, process: "subprocess.Popen[str]") -> Result:
        """Wait for a started doit; one that hangs is killed with its children."""
        with process:
            try:
                out, err = process.communicate(timeout=HANGS_AFTER_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return Result(process.returncode, out, err)

    def stale(self, *words: str) -> set[str]:
        """The steps that a run would build for reasons of their own: not because an input is to be made anew."""
        result = self.doit("-f", str(DECISIONS), "-d", str(self.root), *words)
        assert result.code == 0, result.out + result.err
        return {step for step, reasons in json.loads(result.out.splitlines()[0]).items() if reasons}

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start doit and leave it running, as the leader of a process group of its own."""
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "doit", *self.settings, *words],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"} | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        path = self.root / file
        text = path.read_text()
        if old not in text:
            raise ValueError(f"{file} does not hold {old!r}")
        path.write_text(text.replace(old, new, 1))
