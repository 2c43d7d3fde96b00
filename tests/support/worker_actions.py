"""Small actions that end in every way an action can end, for the tests of the worker and the starter."""

import errno
import os
import signal
import threading
import time
from typing import Any

from tasks.errors import UserError
from tasks.job import Job, sha256
from tests.support.project import HANGS_AFTER_SECONDS


def write(job: Job) -> dict[str, Any]:
    text = "".join(path.read_text() for path in job.inputs.values()) + str(job.params.get("text", ""))
    for path in job.outputs.values():
        path.write_text(text)
    return {"length": len(text)}


def write_with_digest(job: Job) -> dict[str, Any]:
    found = write(job)
    job.written["out"] = sha256(job.outputs["out"])
    return found


def tell_the_digest(job: Job) -> dict[str, Any]:
    write(job)
    return {"digest": job.digest("in")}


def ask_and_die(job: Job) -> dict[str, Any]:
    threading.Thread(target=job.digest, args=("in",), daemon=True).start()
    time.sleep(0.1)
    return die(job)


def write_with_side_file(job: Job) -> dict[str, Any]:
    (path,) = job.outputs.values()
    path.with_name(f"{path.name}.data").write_text("weights")
    return write(job)


def lose_the_input(job: Job) -> dict[str, Any]:
    """Write, then do to the input what `event` names, before the step has ended."""
    found = write(job)
    (source,) = job.inputs.values()
    if job.params["event"] == "remove":
        source.unlink()
    elif job.params["event"] == "replace_and_put_back":
        source.rename(source.with_name("kept"))
        source.write_text("other ")
        source.with_name("kept").replace(source)
    elif job.params["event"] == "link_to_another_and_back":
        link = source.parent
        for target in ("other", str(link.readlink())):
            link.unlink()
            link.symlink_to(target)
    elif job.params["event"] == "rename_its_folder":
        source.parent.rename(source.parent.with_name("renamed"))
    else:
        source.write_text("other ")
    return found


def write_nothing(job: Job) -> dict[str, Any]:
    return {}


def fail_for_the_user(job: Job) -> dict[str, Any]:
    write(job)
    raise UserError("the tensor is not finite", where="flow.pt", value=float("nan"), remedy="Train again")


def run_out_of_memory(job: Job) -> dict[str, Any]:
    raise MemoryError


def crash(job: Job) -> dict[str, Any]:
    write(job)
    raise KeyError("a bug")


def die(job: Job) -> dict[str, Any]:
    write(job)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fill_the_disk(job: Job) -> dict[str, Any]:
    write(job)
    raise OSError(errno.ENOSPC, "No space left on device", "x")


def fill_the_disk_as_torch_says_it(job: Job) -> dict[str, Any]:
    write(job)
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22: file write failed")


def chatter(job: Job) -> dict[str, Any]:
    print("chatter on stdout")
    os.write(2, b"chatter on stderr\n")
    return write(job)


def tell_the_order_of_gpus(job: Job) -> dict[str, Any]:
    write(job)
    return {"order": os.environ.get("CUDA_DEVICE_ORDER")}


def sleep_long(job: Job) -> dict[str, Any]:
    write(job)
    time.sleep(2 * HANGS_AFTER_SECONDS)
    return {}
