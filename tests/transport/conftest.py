"""Real nodes on loopback, for every test that wants some."""

from collections.abc import AsyncIterator

import pytest

from tests.transport.net import Network, open_network


@pytest.fixture
async def net() -> AsyncIterator[Network]:
    """Real nodes on loopback, stopped at the end of the test."""
    async with open_network() as network:
        yield network
