"""A network in one process, in virtual time: hosts, paths with delay and a limited speed, and streams that behave as TCP's do.

What it is: what ``transport.machine`` hands to a simulated node in the place of sockets. Bytes arrive in order, or not at all: while a
path is blocked (as a firewall drops, without a word) they wait and are sent again at the moments when TCP would. An end learns of a
close, a reset or a death only by what arrives, and what is sent to an end that is gone comes back as a reset.
What it is not: packets. Loss that TCP repairs is jitter here.

Rules for editing: every number comes from the injected generator, in the order of the calls; no set is iterated over.
"""

import errno
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio

from transport.limits import UNSENT_BYTES_MAX

WINDOW_BYTES = 1 << 20  # sent and not yet read; beyond it the sender waits
RESEND_SECONDS = 0.2  # TCP's first wait for an acknowledgement; doubled each time
CONNECT_AGAIN_SECONDS = 1.0  # the same for the first packet of a connection
_END = b""  # what arrives after the last bytes
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Weather:
    """What every path is like. ``spread``: how far a delay may exceed the shortest one, as a factor of it.

    ``uplink_bytes_per_second``: of each host, all of its paths together; where it is finite, no socket has more than
    ``UNSENT_BYTES_MAX`` waiting for it.
    """

    delay_seconds: float = 0.02
    spread: float = 0.5
    bytes_per_second: float = 12.5e6
    uplink_bytes_per_second: float = math.inf


class _Uplink:
    """What leaves a host leaves it one after the other."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = -math.inf

    def left(self, count: int, now: float) -> float:
        """When bytes that are sent now have left."""
        self._free_at = max(now, self._free_at) + count / self._bytes_per_second
        return self._free_at

    def room_at(self) -> float:
        """When a socket takes more."""
        return self._free_at - UNSENT_BYTES_MAX / self._bytes_per_second


class _Path:
    """From one host to another; the way back is a path of its own."""

    def __init__(self, rng: random.Random, weather: Weather, uplink: _Uplink) -> None:
        self._rng = rng
        self._weather = weather
        self.uplink = uplink
        self._free_at = 0.0
        self.blocked = False
        self.ends: dict[int, Stream] = {}  # those that receive by it

    def delay(self) -> float:
        return self._weather.delay_seconds * (1 + self._rng.random() * self._weather.spread)

    def arrival(self, count: int, now: float) -> float:
        """When bytes that are sent now have arrived; they queue behind what is on its way out."""
        self._free_at = max(self.uplink.left(count, now), self._free_at) + count / self._weather.bytes_per_second
        return self._free_at + self.delay()


class _Names:
    """As much of a socket as the transport asks for."""

    def __init__(self, here: tuple[str, int], there: tuple[str, int] | None) -> None:
        self._here, self._there = here, there

    def getsockname(self) -> tuple[str, int]:
        return self._here

    def getpeername(self) -> tuple[str, int]:
        if self._there is None:
            raise OSError(errno.ENOTCONN, "not connected")
        return self._there

    def close(self) -> None:
        """A listener's address is free again when the listener is closed."""


class Stream(trio.abc.Stream):
    """One end of a connection. The names are TCP's: what ``trio.SocketStream`` would say and raise."""

    def __init__(self, number: int, names: _Names, out: _Path, *, off: dict[str, None]) -> None:
        self.socket = names
        self.other: Stream
        self.number = number
        self.host = names.getsockname()[0]
        self._out = out
        self._arriving: deque[tuple[float, bytes]] = deque()
        self._reset_at: float | None = None  # when a reset has arrived, overtaking nothing
        self._waiting_bytes = 0
        self._last_arrival = 0.0
        self._stalled_since: float | None = None
        self._reader: trio.CancelScope | None = None  # who waits, until what is on its way is here
        self._has_room = trio.Event()
        self._closed = self._broken = False
        self._off = off  # hosts that answer nothing
        self.is_gone = False  # this end's host would answer with a reset

    # --- what the transport calls ------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        while self.other._waiting_bytes > WINDOW_BYTES and not (self._closed or self._is_reset()):
            with trio.move_on_at(self._reset_at or _NEVER):
                await self._has_room.wait()
        while self._out.uplink.room_at() > trio.current_time() and not (self._closed or self._is_reset()):
            with trio.move_on_at(self._out.uplink.room_at()):
                await self._has_room.wait()
        if self._closed:
            raise trio.ClosedResourceError
        if self._is_reset():
            raise trio.BrokenResourceError
        self.other._on_its_way(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._moment() <= trio.current_time():
            await trio.lowlevel.cancel_shielded_checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if (data := self._take(max_bytes or 65536)) is not None:
                return data
            with trio.CancelScope(deadline=self._moment()) as self._reader:
                await trio.sleep_forever()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = self.is_gone = True
            self.other._on_its_way(_END)
            self._tell()
        await trio.lowlevel.checkpoint()

    # --- what happens to it ------------------------------------------------------------------------------------------------------

    def die(self, *, silently: bool) -> None:
        """Its process is gone; the system it ran on resets the connection, or is gone as well."""
        self._closed = self.is_gone = True
        if not silently:
            self.other._reset_on_its_way()
        self._tell()

    def reset(self) -> None:
        """Somebody between the two ends broke the connection."""
        self._broken = self.is_gone = True
        self._tell()

    def unblock(self, now: float) -> None:
        """The path to here is open again: what waits is sent again when its sender tries the next time."""
        if self._stalled_since is None:
            return
        wait, moment = RESEND_SECONDS, self._stalled_since + RESEND_SECONDS
        while moment < now:
            wait *= 2
            moment += wait
        self._stalled_since = None
        moment += self.other._out.delay()
        self._arriving = deque((moment if at == _NEVER else at, data) for at, data in self._arriving)
        self._reset_at = moment if self._reset_at == _NEVER else self._reset_at
        self._last_arrival = max(self._last_arrival, moment)
        self._tell()

    def _on_its_way(self, data: bytes) -> None:
        """Something was sent to this end."""
        at = self._arrival(len(data))
        if self.host in self._off:
            return
        if self.is_gone:
            if data and at != _NEVER:
                self.other._reset_on_its_way()
            return
        self._arriving.append((at, data))
        self._waiting_bytes += len(data)
        self._tell_reader()

    def _reset_on_its_way(self) -> None:
        at = self._arrival(0)
        if not self.is_gone and self._reset_at is None:
            self._reset_at = at
            self._tell()

    def _arrival(self, count: int) -> float:
        """When what is sent now is here, behind everything before it; never, as long as the path is blocked."""
        now, path = trio.current_time(), self.other._out
        if self._stalled_since is not None or path.blocked:
            self._stalled_since = now if self._stalled_since is None else self._stalled_since
            return _NEVER
        self._last_arrival = max(path.arrival(count, now), self._last_arrival)
        return self._last_arrival

    def _is_reset(self) -> bool:
        self._broken = self._broken or (self._reset_at is not None and self._reset_at <= trio.current_time())
        return self._broken

    def _take(self, count: int) -> bytes | None:
        """What has arrived by now, or None."""
        if self._broken:
            raise trio.BrokenResourceError
        now, taken, size = trio.current_time(), [], 0
        while self._arriving and self._arriving[0][0] <= now and size < count:
            at, data = self._arriving.popleft()
            if data == _END:
                self._arriving.appendleft((at, data))
                if taken or self._is_reset():
                    break
                return _END
            if len(data) > count - size:
                self._arriving.appendleft((at, data[count - size :]))
                data = data[: count - size]
            taken.append(data)
            size += len(data)
        was_full = self._waiting_bytes > WINDOW_BYTES
        self._waiting_bytes -= size
        if size:
            if was_full:
                self.other._tell_writer()
        elif self._is_reset():
            raise trio.BrokenResourceError
        return b"".join(taken) if taken else None

    def _moment(self) -> float:
        """When there is something for the reader."""
        if self._closed or self._broken:
            return -math.inf
        return min(self._arriving[0][0] if self._arriving else _NEVER, self._reset_at or _NEVER)

    def _tell(self) -> None:
        """Whoever waits here looks again."""
        self._tell_reader()
        self._tell_writer()

    def _tell_reader(self) -> None:
        """It sleeps until its moment: where that has not changed, it is not woken for nothing."""
        if self._reader is not None:
            self._reader.deadline = self._moment()

    def _tell_writer(self) -> None:
        self._has_room.set()
        self._has_room = trio.Event()


class Listener(trio.abc.Listener[Stream]):
    """Of one address."""

    def __init__(self, network: "Network", here: tuple[str, int]) -> None:
        self.socket = _Names(here, None)
        self._network = network
        self._here = here
        self._incoming: deque[Stream] = deque()
        self._changed = trio.Event()

    def put(self, stream: Stream) -> None:
        self._incoming.append(stream)
        self._changed.set()

    async def accept(self) -> Stream:
        await trio.lowlevel.checkpoint()
        while not self._incoming:
            self._changed = trio.Event()
            await self._changed.wait()
        return self._incoming.popleft()

    async def aclose(self) -> None:
        self._network.unlisten(self._here, self)
        await trio.lowlevel.checkpoint()


class Network:
    """All hosts and the paths between them. A host is its address; its name is looked up by nobody."""

    def __init__(self, rng: random.Random, weather: Weather = Weather()) -> None:
        self._rng = rng
        self._weather = weather
        self._paths: dict[tuple[str, str], _Path] = {}
        self._uplinks: dict[str, _Uplink] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._streams: dict[int, Stream] = {}
        self._off: dict[str, None] = {}
        self._ports = 40_000
        self._made = 0

    # --- what a machine calls ----------------------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int) -> Listener:
        """Raises OSError where the port is taken."""
        await trio.lowlevel.checkpoint()
        if (host, port) in self._listeners:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self._off.pop(host, None)
        listener = self._listeners[host, port] = Listener(self, (host, port))
        return listener

    async def connect(self, host: str, to: tuple[str, int]) -> Stream:
        """Raises OSError where nobody listens; tries for ever while nothing answers."""
        out, back = self._path(host, to[0]), self._path(to[0], host)
        again = CONNECT_AGAIN_SECONDS
        while out.blocked or back.blocked or to[0] in self._off:
            await trio.sleep(again)
            again *= 2
        await trio.sleep(out.delay() + back.delay())
        listener = self._listeners.get(to)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        self._ports += 1
        here = (host, self._ports)
        mine, theirs = self._stream(_Names(here, to), out), self._stream(_Names(to, here), back)
        mine.other, theirs.other = theirs, mine
        back.ends[mine.number], out.ends[theirs.number] = mine, theirs
        listener.put(theirs)
        return mine

    def unlisten(self, here: tuple[str, int], listener: Listener) -> None:
        if self._listeners.get(here) is listener:
            del self._listeners[here]

    # --- what a scenario calls ---------------------------------------------------------------------------------------------------

    def block(self, source: str, target: str) -> None:
        """From now on nothing passes this way, and nobody is told."""
        self._path(source, target).blocked = True

    def unblock(self, source: str, target: str) -> None:
        path = self._path(source, target)
        path.blocked = False
        for stream in list(path.ends.values()):
            stream.unblock(trio.current_time())

    def part(self, *sides: Iterable[str]) -> None:
        """Hosts of one side reach one another, and nobody else."""
        groups = [list(side) for side in sides]
        for place, side in enumerate(groups):
            for other in groups[:place] + groups[place + 1 :]:
                for source in side:
                    for target in other:
                        self.block(source, target)

    def block_only(self, ways: Sequence[tuple[str, str]]) -> None:
        """These paths are blocked from now on, and no others; what was blocked and stays so notices nothing."""
        for way, path in list(self._paths.items()):
            if path.blocked and way not in ways:
                self.unblock(*way)
        for way in ways:
            self.block(*way)

    def heal(self) -> None:
        """Every path is open again."""
        self.block_only([])

    def cut(self, one: str, other: str) -> None:
        """Break the connections between two hosts; new ones may be made at once."""
        for stream in self._of(one):
            if stream.other.host == other:
                stream.reset()
                stream.other.reset()

    def die(self, host: str, *, silently: bool = False) -> None:
        """The process there is killed; ``silently``: the whole machine, so that nobody is told."""
        for address in [a for a in self._listeners if a[0] == host]:
            del self._listeners[address]
        if silently:
            self._off[host] = None
        for stream in self._of(host):
            stream.die(silently=silently)
            del self._streams[stream.number]

    def _of(self, host: str) -> list[Stream]:
        return [stream for stream in self._streams.values() if stream.host == host]

    def _path(self, source: str, target: str) -> _Path:
        if (source, target) not in self._paths:
            if source not in self._uplinks:
                self._uplinks[source] = _Uplink(self._weather.uplink_bytes_per_second)
            self._paths[source, target] = _Path(self._rng, self._weather, self._uplinks[source])
        return self._paths[source, target]

    def _stream(self, names: _Names, out: _Path) -> Stream:
        self._made += 1
        stream = self._streams[self._made] = Stream(self._made, names, out, off=self._off)
        return stream
