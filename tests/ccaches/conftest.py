"""An empty collection."""

import pytest

from pykcm.ccaches.collection import Collection
from tests.builders import Clock


@pytest.fixture
def collection() -> Collection:
    """UID 1000's, with nothing in it."""
    return Collection(1000, Clock())
