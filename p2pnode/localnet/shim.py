"""Slow, narrow, lossy and cut links without root: a shim between TCP and TLS in the process of each node that a local network starts.

What it is: a ``transport.machine.Machine`` that hands out shaped streams. The dialing end shapes a link in both directions, since it alone
knows the other node, by its listening port; what a node may send, in all and on one connection, is counted where it sends, at dialed and
accepted links alike, so that nothing queues below it.
What it is not: something that ``start`` can be asked for, nor packets. TCP loses no bytes: where a segment would be lost, everything behind
it waits as long as TCP takes to send it again, and the connection's speed is what congestion control leaves of it (Mathis et al. 1997).
A partition is a firewall that drops without a word: bytes wait and are tried again as TCP would, dials get no answer.

Short of the real thing: a process that is killed is seen to be gone at once, also through a cut link, since the system between the two is
one and the same; what was on its way out of a node that ends goes with it; and acknowledgements are never lost. ``scripts/netns`` has the
kernel's links, where root is at hand.

For editors: bytes travel in tasks of the system's nursery, because they outlive the stream that sent them, as they would in a kernel.
Durations are the loop's; partitions are moments that several processes agree on, by the machine's monotonic clock.
"""

import math
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from p2pnode.localnet.weather import Forecast, Weather, read_forecast
from transport.machine import Machine
from transport.tcp import TcpListener, TcpStream

SEGMENT_BYTES = 1448  # of an Ethernet frame, below IP, TCP and its timestamps
PIECE_BYTES = 16 * 1024  # what one connection sends before it is another's turn
AHEAD_SECONDS = 0.005  # what a network card has in its queue
WINDOW_BYTES = 4 << 20  # sent and not yet arrived: where Linux stops by default
SOCKET_BYTES = 64 * 1024  # below the shim the loopback must not be a second, deep queue
RESEND_SECONDS = 0.2  # TCP's shortest wait for an acknowledgement; doubled each time
RESEND_SECONDS_MAX = 120.0
CONNECT_AGAIN_SECONDS = 1.0  # the same for the first packet of a connection
DUPLICATES = 3  # segments behind a lost one that tell its sender so
FORECAST_SECONDS = 0.1  # how soon a node learns that training has begun
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Pace:
    """So many bytes in a second, shared by all who send."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = -math.inf

    async def passes(self, count: int) -> None:
        """Until these bytes are on their way, but for a few."""
        now = trio.current_time()
        self._free_at = max(now, self._free_at) + count / self._bytes_per_second
        if self._free_at - AHEAD_SECONDS > now:
            await trio.sleep_until(self._free_at - AHEAD_SECONDS)


class Way:
    """Bytes from one end of a connection to the other, late, in order, and none while ``is_cut``."""

    def __init__(self, weather: Weather, rng: random.Random, is_cut: Callable[[], bool]) -> None:
        self._weather = weather
        self._rng = rng
        self._is_cut = is_cut
        self._waiting: deque[tuple[float, bytes]] = deque()  # when it arrives, and what
        self._waiting_bytes = 0
        self._last_arrival = -math.inf
        self._is_ended = self._is_broken = False
        self._changed = trio.Event()

    async def put(self, data: bytes) -> None:
        """Waits while too much is on its way. What is sent to an end that is gone is lost."""
        while self._waiting_bytes >= WINDOW_BYTES and not self._is_broken:
            await self._change()
        if self._is_broken:
            return
        at = trio.current_time() + delay(self._weather, self._rng) + stall(self._weather, self._rng, len(data))
        self._last_arrival = max(self._last_arrival, at)
        self._waiting.append((self._last_arrival, data))
        self._waiting_bytes += len(data)
        self._fire()

    def end(self) -> None:
        """Nothing more comes behind what is on its way."""
        self._is_ended = True
        self._fire()

    def break_off(self) -> None:
        """One end is gone."""
        self._is_broken = True
        self._fire()

    @property
    def is_broken(self) -> bool:
        return self._is_broken

    async def take(self) -> bytes:
        """What has arrived, at most a window; nothing at the end. Raises BrokenResourceError."""
        while not self._waiting:
            if self._is_broken:
                raise trio.BrokenResourceError
            if self._is_ended:
                return b""
            await self._change()
        await trio.sleep_until(self._waiting[0][0])
        again = RESEND_SECONDS
        while self._is_cut():
            await trio.sleep(again)
            again = min(2 * again, RESEND_SECONDS_MAX)
        now, arrived = trio.current_time(), []
        while self._waiting and self._waiting[0][0] <= now:
            arrived.append(self._waiting.popleft()[1])
        taken = b"".join(arrived)
        self._waiting_bytes -= len(taken)
        self._fire()
        return taken

    async def _change(self) -> None:
        await self._changed.wait()

    def _fire(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class DialedStream(trio.abc.Stream):
    """The dialing end of a link; both of its directions are shaped here."""

    def __init__(self, tcp: TcpStream, *, paces: tuple[Pace, ...], out: Way, back: Way) -> None:
        self.socket = tcp.socket
        self._tcp = tcp
        self._paces = paces
        self._out = out
        self._back = back
        self._rest = b""
        self._is_closed = False
        trio.lowlevel.spawn_system_task(self._carry_out, name="link out")
        trio.lowlevel.spawn_system_task(self._carry_back, name="link back")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        for piece in pieces(data):
            for pace in self._paces:
                await pace.passes(len(piece))
            self._check()
            await self._out.put(piece)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise trio.ClosedResourceError
        data = self._rest or await self._back.take()
        size = len(data) if max_bytes is None else max_bytes
        self._rest = data[size:]
        return data[:size]

    async def aclose(self) -> None:
        """What was sent before still arrives, and then the end."""
        self._is_closed = True
        self._out.end()
        self._back.break_off()
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._out.is_broken:
            raise trio.BrokenResourceError

    async def _carry_out(self) -> None:
        try:
            while data := await self._out.take():
                await self._tcp.send_all(data)
        except _GONE:
            self._out.break_off()
        finally:
            await trio.aclose_forcefully(self._tcp)

    async def _carry_back(self) -> None:
        try:
            while data := await self._tcp.receive_some(PIECE_BYTES):
                await self._back.put(data)
            self._back.end()
        except _GONE:
            self._back.break_off()
        self._out.break_off()


class AcceptedStream(trio.abc.Stream):
    """The other end: only what it may send is counted here."""

    def __init__(self, tcp: TcpStream, *, paces: tuple[Pace, ...]) -> None:
        self.socket = tcp.socket
        self._tcp = tcp
        self._paces = paces

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for piece in pieces(data):
            for pace in self._paces:
                await pace.passes(len(piece))
            await self._tcp.send_all(piece)

    async def wait_send_all_might_not_block(self) -> None:
        await self._tcp.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._tcp.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._tcp.aclose()


class ShapedListener(trio.abc.Listener[AcceptedStream]):
    def __init__(self, listener: TcpListener, paces: Callable[[], tuple[Pace, ...]]) -> None:
        self.socket = listener.socket
        self._listener = listener
        self._paces = paces

    async def accept(self) -> AcceptedStream:
        return AcceptedStream(_with_small_buffers(await self._listener.accept()), paces=self._paces())

    async def aclose(self) -> None:
        await self._listener.aclose()


class ShapedMachine(Machine):
    """The machine of the node that listens at ``port``, with links as the file says."""

    def __init__(self, forecast: Path, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = forecast
        self._port = port
        self._clock = clock
        self._forecast = read_forecast(forecast)
        self._read_at = clock()
        self._rng = random.Random(f"{self._forecast.seed}-{port}")  # noqa: S311 - weather, no secret
        self._uplink = Pace(self._forecast.weather.bytes_per_second)

    async def listen(self, host: str, port: int) -> list[ShapedListener]:  # type: ignore[override]
        return [ShapedListener(listener, self._paces) for listener in await super().listen(host, port)]

    async def connect(self, host: str, port: int) -> DialedStream:  # type: ignore[override]
        """Takes a round trip, and for ever while nothing gets there and back."""
        weather, again = self._forecast.weather, CONNECT_AGAIN_SECONDS
        while self.is_cut(self._port, port) or self.is_cut(port, self._port) or self._loses_one_of(2):
            await trio.sleep(again)
            again *= 2
        await trio.sleep(delay(weather, self._rng) + delay(weather, self._rng))
        tcp = _with_small_buffers(await super().connect(host, port))
        out = Way(weather, self._rng, lambda: self.is_cut(self._port, port))
        back = Way(weather, self._rng, lambda: self.is_cut(port, self._port))
        return DialedStream(tcp, paces=self._paces(), out=out, back=back)

    def is_cut(self, source: int, target: int) -> bool:
        """Whether nothing passes now from the node that listens at one port to the node at the other."""
        now = self._clock()
        return self._known(now).is_cut(source, target, now=now)

    def _paces(self) -> tuple[Pace, ...]:
        """Of one connection, and of all together."""
        return Pace(speed_left_by_loss(self._forecast.weather)), self._uplink

    def _known(self, now: float) -> Forecast:
        is_open = self._forecast.began is None and self._forecast.weather.partitions
        if is_open and now - self._read_at >= FORECAST_SECONDS:
            self._read_at = now
            self._forecast = read_forecast(self._path)
        return self._forecast

    def _loses_one_of(self, segments: int) -> bool:
        return self._rng.random() > (1 - self._forecast.weather.drop) ** segments


def delay(weather: Weather, rng: random.Random) -> float:
    """Seconds that the next bytes take, one way."""
    return (weather.latency_ms + rng.uniform(-weather.jitter_ms, weather.jitter_ms)) / 1000


def stall(weather: Weather, rng: random.Random, count: int) -> float:
    """Seconds that it takes TCP to notice that one of these segments was lost, and to send it again; mostly none.

    Where enough follows, a round trip tells (RFC 5681); a few segments alone wait for the timer (RFC 6298).
    """
    if not weather.drop:
        return 0.0
    segments = math.ceil(count / SEGMENT_BYTES)
    round_trip = 2 * weather.latency_ms / 1000
    is_lost = rng.random() > (1 - weather.drop) ** segments
    again, seconds = round_trip if segments > DUPLICATES else RESEND_SECONDS + round_trip, 0.0
    while is_lost:
        seconds += again
        again = max(RESEND_SECONDS + round_trip, 2 * again)
        is_lost = rng.random() < weather.drop
    return seconds


def pieces(data: bytes | bytearray | memoryview) -> list[bytes]:
    """Copies, in order: the sender may use its buffer again."""
    return [bytes(data[at : at + PIECE_BYTES]) for at in range(0, len(data), PIECE_BYTES)]


def speed_left_by_loss(weather: Weather) -> float:
    """Bytes per second of one connection: sqrt(3/2) segments per round trip and square root of the loss."""
    if not weather.drop:
        return math.inf
    round_trip = max(2 * weather.latency_ms / 1000, 0.001)
    return math.sqrt(1.5) * SEGMENT_BYTES / (round_trip * math.sqrt(weather.drop))


def _with_small_buffers(tcp: TcpStream) -> TcpStream:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        tcp.socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    return tcp
