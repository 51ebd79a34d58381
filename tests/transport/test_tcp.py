"""A TCP stream of our own: it loses nothing, waits where it must, yields to others, and says how it ended."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transport.limits import UNSENT_BYTES_MAX
from transport.tcp import TcpStream, listeners


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    (listener,) = listeners(await trio.open_tcp_listeners(0, host="127.0.0.1"))
    async with listener:
        near = TcpStream(await trio.open_tcp_stream(*listener.socket.getsockname()[:2]))
        async with near, await listener.accept() as far:
            yield near, far


async def read_to_the_end(stream: TcpStream, into: bytearray, size: int) -> None:
    while data := await stream.receive_some(size):
        into += data


@pytest.mark.parametrize("size", [1000, 65536, 1 << 20])
async def test_what_is_more_than_the_system_takes_at_once_arrives_whole(size: int) -> None:
    sent, received = bytes(range(256)) * 40_000, bytearray()
    async with pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(read_to_the_end, far, received, size)
        await near.send_all(sent)
        await near.send_all(b"")
        await near.aclose()
    assert bytes(received) == sent


async def test_a_writer_waits_for_a_reader_and_can_be_cancelled() -> None:
    async with pair() as (near, _):
        with trio.move_on_after(0.2) as scope:
            await near.send_all(bytes(64 << 20))
        assert scope.cancelled_caught


async def test_a_reader_that_always_finds_something_lets_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with pair() as (near, far):
        await near.send_all(bytes(1000))
        await trio.lowlevel.wait_readable(far.socket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(100):
                assert await far.receive_some(10) == bytes(10)
            nursery.cancel_scope.cancel()
    assert turns >= 90


async def test_the_other_end_closes() -> None:
    async with pair() as (near, far):
        await near.send_all(b"the last")
        await near.aclose()
        assert await far.receive_some() == b"the last"
        assert await far.receive_some() == b""
        assert await far.receive_some() == b"", "and it stays closed"


async def test_the_other_end_resets() -> None:
    async with pair() as (near, far):
        near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await near.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await far.send_all(b"to nobody")


async def test_closed_by_us_whoever_waits_is_told() -> None:
    async with pair() as (near, _):
        told = []

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()
            told.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await near.aclose()
        assert told
        for use in (near.receive_some, lambda: near.send_all(b"x"), near.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await use()
        await near.aclose()


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system cannot bound it")
async def test_little_waits_in_the_socket_before_what_comes_next() -> None:
    async with pair() as ends:
        for stream in ends:
            bound = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert bound == UNSENT_BYTES_MAX
