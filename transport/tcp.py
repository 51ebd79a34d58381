"""One TCP connection as a stream, read and written with as few turns of the event loop as it takes.

A vote is one small write and one small read. `trio.SocketStream` yields to the loop after each, and tries to read before it
waits; here what the system takes or has at once costs one system call. Whoever loops over either yields by itself (`receive_some`
does, `send_all` does not).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Final

import trio

from transport.limits import UNSENT_BYTES_MAX

_READ_BYTES: Final = 64 * 1024  # where the caller leaves it open


class TcpStream(trio.abc.Stream):
    """Takes over a connected socket. Errors are those of any trio stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = socket.socket(fileno=stream.socket.detach())
        self.socket.setblocking(False)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS; elsewhere more waits before what comes after it
            with contextlib.suppress(OSError):  # not TCP
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        self._is_drained = True  # the last read took all that there was: ask for nothing before the system says so

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Not a checkpoint, unless it has to wait."""
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[self.socket.send(unsent) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as error:
                raise self._gone() from error

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self.socket)
        except (OSError, ValueError) as error:
            raise self._gone() from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = _READ_BYTES if max_bytes is None else max_bytes
        if not self._is_drained:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                if self._is_drained:
                    await trio.lowlevel.wait_readable(self.socket)
                data = self.socket.recv(size)
            except BlockingIOError:
                self._is_drained = True
            except (OSError, ValueError) as error:
                raise self._gone() from error
            else:
                self._is_drained = len(data) < size
                return data

    async def aclose(self) -> None:
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    def _gone(self) -> trio.ClosedResourceError | trio.BrokenResourceError:
        """By us, or by the other end."""
        return trio.ClosedResourceError() if self.socket.fileno() < 0 else trio.BrokenResourceError()


class TcpListener(trio.abc.Listener[TcpStream]):
    def __init__(self, listener: trio.SocketListener) -> None:
        self.socket = listener.socket
        self._listener = listener

    async def accept(self) -> TcpStream:
        return TcpStream(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()


def listeners(found: Sequence[trio.SocketListener]) -> list[TcpListener]:
    return [TcpListener(listener) for listener in found]
