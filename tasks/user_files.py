"""Files that users give: what they are, before anything is read that could hang or fill the memory.

A named pipe never ends, a device neither, and a sparse file has any size: each is refused from its attributes, or from
its first and last bytes.
"""

import glob
import json
import stat
from pathlib import Path
from typing import Any

from tasks.errors import UserError, python_command, reason

MAX_TEXT_BYTES = 64 * 2**20  # the largest tokenizer.json is a tenth of that
TEXT = {".yaml", ".yml", ".json", ".txt", ".tiktoken"}
MAX_YAML_BYTES = 2**20  # of a model YAML; real ones have some 10 kB
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
SHOWN_BYTES = 12
LARGE_BYTES = 2**30
KINDS = {
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}
PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
ARCHIVE_END, ARCHIVE_TAIL_BYTES = b"PK\5\6", 2**16 + 22
MAX_SAFETENSORS_HEADER = 100_000_000  # the limit of the format
RIGHT_FILE = "Put the right file there"
DOWNLOAD_AGAIN = "Copy or download it again"


def require_regular(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        UserError: there is none, it is no regular file, or it cannot be accessed.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        cause = (
            "a link to a file that does not exist" if path.is_symlink() else getattr(error, "strerror", reason(error))
        )
        remedy = "Check the permissions of its folder" if isinstance(error, PermissionError) else "Check the path"
        raise UserError("cannot be read", where=path, value=cause, remedy=remedy) from None
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "is of another kind")
        raise UserError(f"{kind}, not a regular file", where=path, remedy="Put a regular file in its place")
    return status.st_size


def require_readable(path: Path) -> int:
    """The size of a file that can be opened, in bytes.

    Raises:
        UserError: as require_regular; it cannot be opened.
    """
    size = require_regular(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from None
    return size


def require_entry(folder: Path) -> None:
    """Require that the files in a folder, if there is one, can be reached.

    Raises:
        UserError: they cannot, whatever their names.
    """
    try:
        (folder / "any").lstat()
    except PermissionError as error:
        raise unreadable(folder, error) from None
    except OSError:
        return  # no file of this name, or no folder


def require_listing(folder: Path) -> None:
    """Require that the files in a folder, if there is one, can be listed and reached.

    Raises:
        UserError: they cannot.
    """
    require_entry(folder)
    try:
        next(folder.iterdir(), None)
    except PermissionError as error:
        raise unreadable(folder, error) from None
    except OSError:
        return


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError("cannot be read", where=path, value=error.strerror, remedy="Check its permissions")


def require_usable(path: Path) -> None:
    """Require a file that can be hashed and read in a time that suits its content.

    Raises:
        UserError: as require_readable; a text file that is too large; a large file with hardly a byte on disk that is
            no file of weights.
    """
    size = require_readable(path)
    if path.suffix in TEXT and size > MAX_TEXT_BYTES:
        raise _too_large(path, size, MAX_TEXT_BYTES)
    if size > LARGE_BYTES and path.stat().st_blocks * 512 < size // 10:  # some file systems report no blocks at all
        weights_format(path)


def read_bounded(path: Path, *, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        UserError: as require_regular; the file is larger, or cannot be read.
    """
    size = require_regular(path)
    if size > most:
        raise _too_large(path, size, most)
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise unreadable(path, error) from None


def read_text(path: Path, *, most: int) -> str:
    """A text file of at most `most` bytes: UTF-8, or UTF-16 with a byte order mark, as YAML allows.

    Raises:
        UserError: as read_bounded; the file is in another encoding, or binary.
    """
    content = read_bounded(path, most=most)
    try:
        return content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _undecodable(path, content, error.start) from None


def _undecodable(path: Path, content: bytes, start: int) -> UserError:
    if b"\0" in content:
        return UserError("is a binary file, not text", where=path, remedy=RIGHT_FILE)
    line = content.count(b"\n", 0, start) + 1
    return UserError(
        "is not UTF-8",
        where=f"{path}:{line}",
        value=str(content[start : start + SHOWN_BYTES]),
        remedy="Save it as UTF-8, in an editor or by iconv -f ENCODING -t UTF-8, where ENCODING is GBK for example",
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: as read_text; the file is not JSON or nested too deeply, or its JSON is no object.
    """
    text = read_text(path, most=MAX_TEXT_BYTES)
    try:
        value = json.loads(text)
    except RecursionError:
        raise UserError("is JSON that is nested too deeply", where=path, remedy=DOWNLOAD_AGAIN) from None
    except ValueError as error:
        raise UserError("is not JSON", where=path, value=reason(error), remedy=DOWNLOAD_AGAIN) from None
    if not isinstance(value, dict):
        raise UserError("is not a JSON object", where=path, value=type(value).__name__, remedy=DOWNLOAD_AGAIN)
    return value


def weights_format(path: Path) -> str:
    """What a file of weights is by its content, whatever its name: `archive`, `pickle` or `safetensors`.

    `archive` is what torch.save writes since PyTorch 1.6, `pickle` what it wrote before.

    Raises:
        UserError: as require_regular; the file is empty, truncated, a Git LFS pointer or something else.
    """
    size = require_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
            file.seek(max(0, size - ARCHIVE_TAIL_BYTES))
            end = file.read(ARCHIVE_TAIL_BYTES)
    except OSError as error:
        raise unreadable(path, error) from None
    if start.startswith(b"version https://git-lfs"):
        raise UserError("is a Git LFS pointer, not the weights", where=path, remedy="Run git lfs pull")
    if start.startswith(b"PK"):
        if ARCHIVE_END not in end:
            raise damaged_weights(path, "the end of the archive is missing")
        return "archive"
    if start.startswith(PICKLE_STARTS):
        return "pickle"
    if _is_safetensors(start, size):
        return "safetensors"
    raise _no_weights(path, start)


def _too_large(path: Path, size: int, most: int) -> UserError:
    return UserError("is too large", where=path, value=f"{size} bytes, allowed {most}", remedy=RIGHT_FILE)


def damaged_weights(path: Path, cause: str) -> UserError:
    return UserError("is not a whole PyTorch checkpoint", where=path, value=cause, remedy=DOWNLOAD_AGAIN)


def _is_safetensors(start: bytes, size: int) -> bool:
    header = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and header <= min(size - 8, MAX_SAFETENSORS_HEADER)


def _no_weights(path: Path, start: bytes) -> UserError:
    if not start:
        return damaged_weights(path, "an empty file")
    if path.name.endswith(".index.json"):
        return _index(path)
    return damaged_weights(path, f"neither a PyTorch checkpoint nor safetensors; it begins with {start[:12]!r}")


def _index(path: Path) -> UserError:
    files = read_json(path).get("weight_map")
    what = "is the index of weights in several files"
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        return UserError(f"{what}, but names none", where=path, remedy=DOWNLOAD_AGAIN)
    missing = sorted({file for file in files.values() if not (path.parent / file).is_file()})
    if missing:
        remedy = "Put them into the folder of the index"
        return UserError(f"{what}, of which some are missing", where=path, value=", ".join(missing), remedy=remedy)
    target = path.with_name(path.name.removesuffix(".index.json"))
    joined = target.with_name(f"{target.stem}.joined.pt")
    return UserError(what, where=path, remedy=f"Join the files and give the result: {join_command(path, joined)}")


def join_command(index: Path, target: Path) -> str:
    """The command that makes one file, `target`, of the files that an index of weights names."""
    return _join(f"{{*json.load(open({str(index)!r}))['weight_map'].values()}}", index.parent, target)


def join_pieces_command(folder: Path, stem: str) -> str:
    """The same for `STEM-00001-of-00002.safetensors` and so on without an index; makes `STEM.joined.pt`."""
    pieces = f"glob.glob({glob.escape(stem) + '-*-of-*.safetensors'!r}, root_dir={str(folder)!r})"
    return _join(pieces, folder, folder / f"{stem}.joined.pt")


def _join(names: str, folder: Path, target: Path) -> str:
    program = (
        "import glob, json, torch; from safetensors.torch import load_file; "
        f"files = sorted({names}); "
        "load = lambda p: load_file(p) if p.endswith('.safetensors') else torch.load(p, map_location='cpu'); "
        f"loaded = [load({str(folder)!r} + '/' + file) for file in files]; "
        f"torch.save({{n: t for tensors in loaded for n, t in tensors.items()}}, {str(target)!r})"
    )
    return python_command(program)
