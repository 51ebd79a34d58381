"""Cuttable links between nodes that use real TCP: every dial of a node goes through a switchboard that knows who dials whom.

What it is: a `Machine` whose `connect` asks the switchboard for a line to a port, and the switchboard, which carries bytes between the
two sockets for as long as the link from one to the other lets it. What it is not: a simulation; TLS, TCP and time are real.

A cut is unkind: bytes vanish and connections stay. A line that has lost a byte never carries another one, in that direction, also after
the link has healed; so nodes must notice by themselves, and come back by themselves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import trio

from transport.machine import Machine

_HEADER = struct.Struct(">HH")  # who dials; the port that it dials
_GO = b"\x01"


@dataclass(slots=True)
class Link:
    """How bytes travel from one node to another. One way only: a cut that is meant both ways is set twice."""

    is_cut: bool = False
    refuses: bool = False
    delay_seconds: float = 0.0


class Switchboard:
    def __init__(self) -> None:
        self.port = 0
        self.dials = 0
        self._links: dict[tuple[int, int], Link] = {}
        self._places: dict[int, int] = {}  # listening port -> node

    def plug_in(self, place: int, port: int) -> None:
        """Node `place` listens there."""
        self._places[port] = place

    def link(self, source: int, target: int) -> Link:
        return self._links.setdefault((source, target), Link())

    def cut(self, one: set[int], other: set[int], *, both_ways: bool = True) -> None:
        """Nothing travels from the first to the second any more, and nothing back."""
        self._set(one, other, both_ways=both_ways, is_cut=True)

    def heal(self, one: set[int], other: set[int]) -> None:
        self._set(one, other, both_ways=True, is_cut=False)

    def heal_all(self) -> None:
        for link in self._links.values():
            link.is_cut = link.refuses = False

    def _set(self, one: set[int], other: set[int], *, both_ways: bool, is_cut: bool) -> None:
        for a in one:
            for b in other - {a}:
                self.link(a, b).is_cut = is_cut
                if both_ways:
                    self.link(b, a).is_cut = is_cut

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started(self.port)
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, near: trio.SocketStream) -> None:
        """One line, until either end is gone. The dialer hears _GO when the other end has accepted, or never."""
        try:
            async with near:
                header = await _exactly(near, _HEADER.size)
                source, port = _HEADER.unpack(header)
                target = self._places.get(port, -1)
                out, back = self.link(source, target), self.link(target, source)
                self.dials += 1
                if out.is_cut or back.is_cut:
                    await _until_gone(near)
                    return
                if out.refuses:
                    return
                async with await trio.open_tcp_stream("127.0.0.1", port) as far:
                    await near.send_all(_GO)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_carry, near, far, out, nursery.cancel_scope)
                        nursery.start_soon(_carry, far, near, back, nursery.cancel_scope)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass


class Switched(Machine):
    """The machine of node `place`: its dials go through the switchboard at `port`."""

    def __init__(self, place: int, port: int) -> None:
        self._place = place
        self._port = port

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        try:
            await stream.send_all(_HEADER.pack(self._place, port))
            if not await stream.receive_some(1):
                raise ConnectionRefusedError(111, "refused by the switchboard")
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


async def _carry(source: trio.SocketStream, target: trio.SocketStream, link: Link, over: trio.CancelScope) -> None:
    """Bytes one way. The end of one way is the end of the line, but for a cut, of which nobody is told."""
    lost = False
    try:
        async for data in source:
            if link.delay_seconds:
                await trio.sleep(link.delay_seconds)
            lost = lost or link.is_cut
            if not lost:
                await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    if lost or link.is_cut:
        await trio.sleep_forever()
    over.cancel()


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise trio.BrokenResourceError
        data += more
    return data


async def _until_gone(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass


def say(line: str) -> None:
    """A figure for whoever runs the test with `-s`."""
    print(line)  # noqa: T201
