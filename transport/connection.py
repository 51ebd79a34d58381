"""One live connection: reads frames, writes what the peer's outbox holds, keeps alive, and ends for one reason.

Nothing is decided here about what frames mean. Everything that ends a connection is turned into `reason`, and nothing
but a bug of ours leaves `run` as an exception. Every wait has a deadline or is cancelled with the connection.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from transport import limits
from transport.address import Address
from transport.errors import Malformed, RemoteFault
from transport.events import Direction, KindTraffic
from transport.framing import BULK_KINDS, HEADER_BYTES, FrameDecoder, Kind, encode_frame
from transport.handshake import Bye, Peer, decode_bye, encode_bye
from transport.identity import PublicKey, short_id
from transport.outbox import Outbox
from transport.ratelimit import TokenBucket
from transport.tls_stream import TlsStream
from transport.window import BulkWindow

_NONCE: Final = struct.Struct(">Q")
_NOTHING: Final = KindTraffic(0, 0)
Receive = Callable[[int, bytes], Awaitable[None]]


@dataclass(slots=True)
class Traffic:
    """All connections together: bytes of frames, and what was received by kind."""

    sent: int = 0
    received: int = 0
    kinds: dict[int, KindTraffic] = field(default_factory=dict)

    def note(self, kind: int, size: int) -> None:
        """A frame of `size` bytes has come."""
        before = self.kinds.get(kind, _NOTHING)
        self.kinds[kind] = KindTraffic(before.frames + 1, before.bytes + size)


@dataclass(frozen=True, slots=True)
class Shaken:
    """A stream whose both ends have accepted each other. `id` is the same at both, and no other connection's.

    `suspected` names the connection to this peer that our HELLO called dead, `said.suspected` the one that its HELLO did.
    """

    stream: TlsStream
    decoder: FrameDecoder
    key: PublicKey
    leaf_hash: bytes
    said: Peer
    remote: Address
    local: Address
    direction: Direction
    id: bytes
    suspected: bytes


class Connection:
    def __init__(
        self,
        shaken: Shaken,
        outbox: Outbox,
        traffic: Traffic,
        *,
        shared: Callable[[], TokenBucket | None] = lambda: None,
        is_watched: Callable[[], bool] = lambda: True,
    ) -> None:
        """`shared` is what this peer's frames are taken from besides its own share, where it is a stranger.

        `is_watched`: whether its silence matters soon, as between members; other links are left in peace for longer.
        """
        self.shaken = shaken
        self.name = f"{short_id(shaken.key)}@{shaken.remote}"
        self.fault: RemoteFault | None = None
        self.reason = ""
        self.rtt_seconds: float | None = None
        self.is_retired = False
        self._stream = shaken.stream
        self._outbox = outbox
        self._window = BulkWindow()
        self._traffic = traffic
        self._scope = trio.CancelScope()
        self._shared = shared
        self._is_watched = is_watched
        self._bucket = TokenBucket(
            per_second=limits.FRAMES_PER_SECOND, burst=limits.FRAMES_BURST, now=trio.current_time()
        )
        self._waiting_since: float | None = None
        self._sending_since: float | None = None
        self._pings_sent = 0
        self._pinged_at = 0.0
        self._unanswered: dict[int, float] = {}  # number of a PING and when it was sent; PINGS_UNANSWERED_MAX at most
        self._answered = 0  # the highest number of a PING whose PONG has come
        self._pong = trio.Event()
        self._bye_sent = False
        self._bye_received = False

    @property
    def is_silent(self) -> bool:
        """Nothing has come for a while, though it was asked: the path is cut, or the peer hangs. Not yet dead."""
        since, now = self._waiting_since, trio.current_time()
        if since is None or now - since < limits.SILENT_SECONDS:
            return False
        asked_at = next(iter(self._unanswered.values()), now)
        return now - asked_at >= limits.QUIET_SECONDS

    async def answers(self, seconds: float) -> bool:
        """Whether it answers this very question within that time.

        Anything else that comes proves nothing: the system may go on delivering what a process sent that has died since.
        """
        self._ping()
        asked = self._pings_sent
        with trio.move_on_after(seconds):
            while self._answered < asked:
                await self._pong.wait()
        return self._answered >= asked

    async def run(self, receive: Receive) -> None:
        """Until it ends; `reason` and `fault` say why. `receive` gets every frame but those of the connection's own."""
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guarded, self._write)
                    nursery.start_soon(self._guarded, self._keep_alive)
                    await self._guarded(lambda: self._read(receive))
            finally:
                if not self.reason:
                    self.reason = "duplicate connection" if self.is_retired else "this node is stopping"
                await trio.aclose_forcefully(self._stream)

    def retire(self) -> None:
        """Close without penalty in favour of another connection to the same peer: write no more, read to its BYE."""
        if not self.is_retired:
            self.is_retired = True
            self._scope.deadline = trio.current_time() + limits.RETIRE_SECONDS_MAX
            self._outbox.wake()

    def abort(self, reason: str) -> None:
        """End at once."""
        self.reason = self.reason or reason
        self._scope.cancel()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        """The first of the tasks to end says why, and takes the others along."""
        try:
            await task()
        except RemoteFault as fault:
            self.fault = self.fault or fault
            self.abort(fault.reason)
        except Malformed as error:
            self.fault = self.fault or RemoteFault(self.name, str(error))
            self.abort(str(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort("connection lost")
        self._scope.cancel()

    async def _read(self, receive: Receive) -> None:
        decoder = self.shaken.decoder
        while True:
            for place, (kind, body) in enumerate(decoder, start=1):
                self._traffic.note(kind, HEADER_BYTES + len(body))
                if kind not in BULK_KINDS or len(body) < limits.ANSWER_BYTES_FREE_MIN:
                    await self._throttle()
                if place % limits.FRAMES_PER_TURN_MAX == 0:
                    await trio.lowlevel.checkpoint()
                match kind:
                    case Kind.PING:
                        self._on_ping(body)
                    case Kind.PONG:
                        self._on_pong(body)
                    case Kind.BYE:
                        if self._on_bye(body):
                            return
                    case _:
                        await receive(kind, body)
            self._waiting_since = trio.current_time()
            count = await self._stream.receive_into(decoder)
            self._waiting_since = None
            if not count:
                self.reason = self.reason or "the peer closed the connection"
                return
            self._traffic.received += count

    async def _throttle(self) -> None:
        """A peer that pushes faster than its share is read more slowly; it is not punished."""
        now = trio.current_time()
        wait_seconds = self._bucket.charge(now)
        if (shared := self._shared()) is not None:
            wait_seconds = max(wait_seconds, shared.charge(now))
        if wait_seconds > 0.0:
            await trio.sleep(wait_seconds)

    async def _write(self) -> None:
        if not self.is_retired:
            self._outbox.window = self._window
        while not self.is_retired:
            await self._outbox.wait()
            if self._outbox.is_overflown:
                raise RemoteFault(self.name, "it is too slow for what consensus sends it")
            if not self.is_retired and (batch := self._outbox.gather()):
                await self._send(batch + self._next_ping() if self._window.is_probe_due else batch)
        await self._send(encode_bye(Bye.DUPLICATE))
        self._bye_sent = True
        if not self._bye_received:
            await trio.sleep_forever()  # the reader ends it at the peer's BYE, or the deadline does

    async def _send(self, data: bytes) -> None:
        self._sending_since = trio.current_time()
        await self._stream.send_all(data)
        self._sending_since = None
        self._traffic.sent += len(data)

    async def _keep_alive(self) -> None:
        """PING now and then, which measures; and sooner where nothing comes, which shows whether anything can.

        It also looks after the writer: a write takes SEND_SECONDS_MAX at most (the next one began later than the last look).
        """
        self._ping()
        while True:
            now = trio.current_time()
            waiting_since = now if self._waiting_since is None else self._waiting_since
            dead_at = (
                waiting_since + limits.DEAD_SECONDS
            )  # the sum itself is slept for and compared: a difference rounds otherwise
            if now >= dead_at:
                raise RemoteFault(self.name, f"nothing heard for {limits.DEAD_SECONDS:.0f} s")
            stuck_at = math.inf if self._sending_since is None else self._sending_since + limits.SEND_SECONDS_MAX
            if now >= stuck_at:
                raise RemoteFault(self.name, "it does not read what it is sent")
            ping_at = self._ping_at(waiting_since)
            if now >= ping_at:
                self._ping()
                ping_at = self._ping_at(waiting_since)
            await trio.sleep_until(min(ping_at, dead_at, stuck_at))

    def _ping_at(self, waiting_since: float) -> float:
        # Who has been dialed asks a little later: the other end's question mostly makes its own needless.
        turn = limits.TURN_SECONDS if self.shaken.direction == "inbound" else 0.0
        quiet_at = max(waiting_since + self._quiet_seconds() + turn, self._pinged_at + limits.QUIET_SECONDS)
        return min(quiet_at, self._pinged_at + limits.PING_SECONDS) if self._is_watched() else quiet_at

    def _quiet_seconds(self) -> float:
        return limits.QUIET_SECONDS if self._is_watched() else limits.PING_SECONDS

    def _ping(self) -> None:
        self._pinged_at = trio.current_time()
        if not self.is_retired:
            self._outbox.push(self._next_ping())

    def _next_ping(self) -> bytes:
        if len(self._unanswered) >= limits.PINGS_UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]
        self._pings_sent += 1
        self._unanswered[self._pings_sent] = self._pinged_at = trio.current_time()
        self._window.probed(self._pings_sent)
        return encode_frame(Kind.PING, _NONCE.pack(self._pings_sent))

    def _on_ping(self, body: bytes) -> None:
        if len(body) != _NONCE.size:
            raise Malformed(f"a PING of {len(body)} bytes")
        self._outbox.push(encode_frame(Kind.PONG, body))

    def _on_pong(self, body: bytes) -> None:
        """One that nobody asked for means nothing."""
        if len(body) != _NONCE.size:
            raise Malformed(f"a PONG of {len(body)} bytes")
        number = _NONCE.unpack(body)[0]
        sent_at = self._unanswered.get(number)
        if sent_at is not None:
            now = trio.current_time()
            self.rtt_seconds = now - sent_at
            is_urgent = self._outbox.pacer.is_agreeing(now)
            self._window.answered(number, seconds=self.rtt_seconds, now=now, is_urgent=is_urgent)
            if self._window.is_probe_due:
                self._ping()
            self._outbox.wake()
            self._unanswered = {later: at for later, at in self._unanswered.items() if later > number}
            self._answered = number
            self._pong.set()
            self._pong = trio.Event()

    def _on_bye(self, body: bytes) -> bool:
        """Whether to stop reading."""
        code, text = decode_bye(body)
        if code is not Bye.DUPLICATE:
            self.reason = f"the peer said: {text or code.name.lower().replace('_', ' ')}"
            return True
        self._bye_received = True
        self.retire()
        return self._bye_sent
