"""Artifacts of the recorded model folders that several modules of tests read and none changes."""

import pytest

from tests.support.generations import QUICK_AND_THOROUGH, Generation, generation


@pytest.fixture(scope="session", params=QUICK_AND_THOROUGH)
def cosyvoice1(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """The artifacts made from the recorded folder of CosyVoice 1."""
    return generation(tmp_path_factory, "cosyvoice1", request.param)
