"""The digests of a request's inputs, some of which its parent computes while the step runs."""

from collections.abc import Callable, Mapping
from functools import cached_property

from tasks.child.request import Request
from tasks.freshness.decide import input_digests
from tasks.freshness.digests import Digests, stamps

Ask = Callable[[], Mapping[str, str]]  # what the parent has computed: role -> SHA-256


class InputDigests:
    """What a request knows of the digests of its inputs, and what there is to be waited for.

    Args:
        ask: waits for the parent; without one, or for what it could not read, files are digested here.
    """

    def __init__(self, request: Request, ask: Ask | None = None) -> None:
        self._request, self._ask = request, ask

    def differing(self) -> str | None:
        """Role of an input that is not what it was when the step was chosen to run."""
        request = self._request
        inputs, decided, awaited = request.job.inputs, request.ingredients.inputs, request.awaited
        known = {role: path for role, path in inputs.items() if role not in awaited}
        found = input_digests(known, request.records, Digests(request.memo))
        return next(
            (
                role
                for role, path in inputs.items()
                if (stamps(path) != awaited[role] if role in awaited else found[role] != decided.get(role))
            ),
            None,
        )

    @cached_property
    def complete(self) -> dict[str, str]:
        """SHA-256 of every input by its role, in order."""
        request = self._request
        if not request.awaited:
            return request.ingredients.inputs
        decided = {role: digest for role, digest in request.ingredients.inputs.items() if role not in request.awaited}
        asked = self._ask() if self._ask else {}
        return input_digests(request.job.inputs, request.records, Digests(request.memo), predicted={**decided, **asked})
