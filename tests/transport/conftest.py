"""Lets the tests of this folder import their helpers as `tests.transport...`, however pytest was started."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests.transport.net import Network, open_network  # noqa: E402  (needs the path)


@pytest.fixture
async def net() -> AsyncIterator[Network]:
    """Real nodes on loopback, stopped at the end of the test."""
    async with open_network() as network:
        yield network
