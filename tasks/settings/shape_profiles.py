"""The sizes a TensorRT plan is built for: profiles of {axis: [min, opt, max]}, completed and checked.

Pure: the same rules serve the check of the settings, preflight, the build and the messages of the runtime.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.settings.component import AxisSpec

Range = tuple[int, int, int]
Profile = dict[str, Range]
BOUNDS = ("min", "opt", "max")


def complete_profiles(axes: Mapping[str, AxisSpec], settings: Mapping[str, Any]) -> list[Profile]:
    """Every profile with a range for every axis.

    Args:
        axes: the component's axes by name.
        settings: ``profile`` replaces ranges of the table; each entry of ``profiles`` is a profile of its own, and
            what it leaves out comes from there. Without entries there is one profile.
    """
    base = {name: (axis.min, axis.opt, axis.max) for name, axis in axes.items()} | _ranges(
        settings.get("profile") or {}
    )
    return [base | _ranges(own) for own in settings.get("profiles") or [{}]]


def profile_problems(axes: Mapping[str, AxisSpec], settings: Mapping[str, Any]) -> list[str]:
    """Why the profiles cannot be built or used, one line each; empty when they can."""
    given = {"profile": [settings.get("profile") or {}], "profiles": list(settings.get("profiles") or [])}
    malformed = [line for key, profiles in given.items() for line in _malformed(axes, profiles, key=key)]
    if malformed:
        return malformed
    complete = complete_profiles(axes, settings)
    lines = [
        line
        for index, profile in enumerate(complete)
        for axis, sizes in profile.items()
        for line in _range_problems(_setting(settings, index, axis), sizes, axes[axis])
    ]
    repeated = [f"tensorrt.profiles[{i}]: the same as tensorrt.profiles[{j}]" for i, j in _repeated(complete)]
    return [*dict.fromkeys(lines), *repeated]


def _ranges(profile: Mapping[str, Sequence[int]]) -> Profile:
    return {axis: (low, usual, high) for axis, (low, usual, high) in profile.items()}


def _malformed(axes: Mapping[str, AxisSpec], profiles: Sequence[Mapping[str, Any]], *, key: str) -> Iterator[str]:
    for index, profile in enumerate(profiles):
        where = f"tensorrt.{key}" if key == "profile" else f"tensorrt.{key}[{index}]"
        for axis, sizes in profile.items():
            if axis not in axes:
                yield f"{where}.{axis}: no such axis; axes of the TensorRT components: {', '.join(sorted(axes))}"
            elif not _three_integers(sizes):
                yield f"{where}.{axis}={sizes}: needs three whole numbers [min, opt, max]"


def _setting(settings: Mapping[str, Any], index: int, axis: str) -> str:
    """The setting that a range of a completed profile comes from."""
    profiles = settings.get("profiles") or [{}]
    if axis in profiles[index]:
        return f"tensorrt.profiles[{index}].{axis}"
    return f"tensorrt.profile.{axis}" if axis in (settings.get("profile") or {}) else f"model.axes.{axis}"


def _three_integers(sizes: Any) -> bool:
    is_list = isinstance(sizes, Sequence) and not isinstance(sizes, str) and len(sizes) == len(BOUNDS)
    return is_list and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)


def _range_problems(where: str, sizes: Range, axis: AxisSpec) -> Iterator[str]:
    if sizes == (axis.min, axis.opt, axis.max) and not axis.min <= axis.opt <= axis.max:
        return  # the axis itself is reported
    shown = list(sizes)
    low, usual, high = sizes
    if not low <= usual <= high:
        yield f"{where}={shown}: needs min <= opt <= max"
    if low < axis.least:
        why = "the smallest size the network can take" if axis.least > 1 else "a size is at least 1"
        yield f"{where}={shown}: min is below {axis.least}, {why}"
    if other := [size for size in dict.fromkeys(sizes) if size % axis.multiple_of]:
        yield f"{where}={shown}: {', '.join(map(str, other))} not a multiple of {axis.multiple_of}"


def _repeated(profiles: Sequence[Profile]) -> Iterator[tuple[int, int]]:
    for index, profile in enumerate(profiles):
        if profile in profiles[:index]:
            yield index, profiles.index(profile)


def corners(profile: Profile) -> dict[str, dict[str, int]]:
    """The three sizes of a profile: {"min": {axis: size}, "opt": ..., "max": ...}; equal ones appear once."""
    found: dict[str, dict[str, int]] = {}
    for index, bound in enumerate(BOUNDS):
        sizes = {axis: size[index] for axis, size in profile.items()}
        if sizes not in found.values():
            found[bound] = sizes
    return found
