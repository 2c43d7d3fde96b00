"""Permissions that hold for root as well."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# What lets root read and write everything; a process without it is an owner like any other.
CAPABILITIES = "-dac_override,-dac_read_search,-fowner"
SETPRIV = ("setpriv", f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}")


def denied_prefix(tmp_path: Path) -> tuple[str, ...]:
    """What a command begins with so that permissions hold for it; skips the test where that is not possible."""
    if os.geteuid():
        return ()
    probe = tmp_path / "probe"
    probe.touch(mode=0)
    probing = [*SETPRIV, "cat", str(probe)]
    if not shutil.which("setpriv") or not subprocess.run(probing, capture_output=True, check=False).returncode:
        pytest.skip("root cannot be kept out of files here")
    return SETPRIV
