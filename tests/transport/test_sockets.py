"""Listening and connecting, and what is said when they fail."""

import pytest

from transport import sockets
from transport.address import Address
from transport.dialing import DialFailure
from transport.errors import UserError
from transport.establish import DialError


async def test_a_connection_knows_both_its_ends():
    (listener,) = await sockets.listen(Address("127.0.0.1", 0), fallback=False)
    async with listener:
        here = sockets.name_of(listener.socket)
        near, remote = await sockets.connect(here)
        async with near, await listener.accept() as far:
            assert remote == sockets.peer_of(near.socket) == here
            assert sockets.peer_of(far.socket) == sockets.name_of(near.socket)


async def test_a_taken_port_is_refused_or_passed_over_as_asked():
    (listener,) = await sockets.listen(Address("127.0.0.1", 0), fallback=False)
    async with listener:
        taken = sockets.name_of(listener.socket)
        with pytest.raises(UserError, match="the port is taken"):
            await sockets.listen(taken, fallback=False)
        (other,) = await sockets.listen(taken, fallback=True)
        async with other:
            assert sockets.name_of(other.socket).port > taken.port


async def test_nobody_listening_is_called_refused():
    (listener,) = await sockets.listen(Address("127.0.0.1", 0), fallback=False)
    address = sockets.name_of(listener.socket)
    await listener.aclose()
    with pytest.raises(DialError) as caught:
        await sockets.connect(address)
    assert caught.value.failure is DialFailure.REFUSED


async def test_an_address_of_another_machine_cannot_be_listened_on():
    with pytest.raises(UserError, match="cannot listen on"):
        await sockets.listen(Address("192.0.2.1", 0), fallback=False)
