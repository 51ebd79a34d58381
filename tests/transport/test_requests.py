"""Questions and answers: two ends joined by hand, with a virtual clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as some

from tests.transport.net import RecordingLog, Signal, echo
from transport import limits
from transport.errors import LocalFault, Malformed, RequestFailed
from transport.framing import FrameDecoder, Kind
from transport.identity import PublicKey
from transport.outbox import Outbox
from transport.requests import RequestHandler, Requests

KEY = PublicKey(b"k" * 32)


class Ends:
    def __init__(self, nursery: trio.Nursery, handler: RequestHandler) -> None:
        self.nursery = nursery
        self.log = RecordingLog(Signal())
        self.outboxes = (Outbox(), Outbox())
        self.asker, self.answerer = (
            Requests(KEY, name="peer", outbox=outbox, handler=handler, log=self.log) for outbox in self.outboxes
        )

    async def carry(self, outbox: Outbox, to: Requests) -> None:
        decoder = FrameDecoder()
        while True:
            await outbox.wait()
            decoder.feed(outbox.gather())
            for kind, body in decoder:
                if kind == Kind.REQUEST:
                    to.on_request(body, self.nursery)
                else:
                    to.on_response(body)

    async def ask(self, method: int, body: bytes = b"x", *, seconds: float = 5.0, most: int = 1 << 20) -> bytes:
        return await self.asker.call(method, body, timeout_seconds=seconds, response_bytes_max=most)


@asynccontextmanager
async def ends(handler: RequestHandler = echo) -> AsyncIterator[Ends]:
    async with trio.open_nursery() as nursery:
        both = Ends(nursery, handler)
        nursery.start_soon(both.carry, both.outboxes[0], both.answerer)
        nursery.start_soon(both.carry, both.outboxes[1], both.asker)
        yield both
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [0, 1, limits.REQUEST_BYTES_MAX])
async def test_an_answer(size: int) -> None:
    async with ends() as both:
        assert await both.ask(1, bytes(size)) == bytes(size)


async def test_a_long_answer_comes_in_parts() -> None:
    async def long(_: PublicKey, __: int, body: bytes) -> bytes:
        return body * 50

    async with ends(long) as both:
        assert await both.ask(1, bytes(60_000), most=3_000_000) == bytes(3_000_000)
        with pytest.raises(RequestFailed, match="longer than 2999999"):
            await both.ask(1, bytes(60_000), most=2_999_999)


async def test_a_refusal_gives_its_reason_and_logs_nothing() -> None:
    async with ends() as both:
        with pytest.raises(RequestFailed, match="refused: not today"):
            await both.ask(2)
        assert both.log.lines == []


async def test_a_handler_with_a_bug_is_logged_and_harms_nothing() -> None:
    async with ends() as both:
        with pytest.raises(RequestFailed, match="internal error"):
            await both.ask(3)
        assert "ZeroDivisionError" in both.log.named("request handler failed")[0]["error"]
        assert await both.ask(1) == b"x"


async def test_no_answer_within_the_time(autojump_clock: trio.testing.MockClock) -> None:
    async with ends() as both:
        with pytest.raises(RequestFailed, match=r"no answer within 2\.5 s"):
            await both.ask(4, seconds=2.5)
        assert trio.current_time() == pytest.approx(2.5)


async def test_only_so_many_are_outstanding_and_the_next_waits(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(key: PublicKey, method: int, body: bytes) -> bytes:
        await trio.sleep(6.0 if method == 4 else 0.0)
        return body

    async with ends(slow) as both, trio.open_nursery() as nursery:

        async def hang() -> None:
            with pytest.raises(RequestFailed):
                await both.ask(4, seconds=5.0)

        for _ in range(limits.REQUESTS_SENT_MAX):
            nursery.start_soon(hang)
        await trio.testing.wait_all_tasks_blocked()
        assert await both.ask(1, seconds=60.0) == b"x"
        rounds = limits.REQUESTS_SENT_MAX / limits.ANSWERS_AT_ONCE
        assert trio.current_time() == pytest.approx(6.0 * rounds), "who asks much waits for itself"


async def test_who_does_not_read_has_few_answers_made() -> None:
    """Else each request that is never read would hold a page of blocks in memory."""
    made = 0

    async def long(key: PublicKey, method: int, body: bytes) -> bytes:
        nonlocal made
        made += 1
        return bytes(2 * limits.BULK_BYTES_MAX)

    async with trio.open_nursery() as nursery:
        answerer = Requests(KEY, name="peer", outbox=Outbox(), handler=long, log=RecordingLog(Signal()))
        for number in range(limits.REQUESTS_SERVED_MAX):
            answerer.on_request(number.to_bytes(4, "big") + b"\0\1", nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert made == limits.ANSWERS_AT_ONCE
        nursery.cancel_scope.cancel()


async def test_a_peer_that_asks_too_much_is_told_busy(autojump_clock: trio.testing.MockClock) -> None:
    async with ends() as both:
        for number in range(limits.REQUESTS_SERVED_MAX):
            both.answerer.on_request(number.to_bytes(4, "big") + b"\0\4", both.nursery)
        with pytest.raises(RequestFailed, match="busy"):
            await both.ask(1)


async def test_when_the_peer_goes_everybody_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async with ends() as both, trio.open_nursery() as nursery:

        async def hang() -> None:
            with pytest.raises(RequestFailed, match="connection lost"):
                await both.ask(4)

        nursery.start_soon(hang)
        await trio.testing.wait_all_tasks_blocked()
        both.asker.close("connection lost")
        with pytest.raises(RequestFailed, match="connection lost"):
            await both.ask(1)


async def test_our_own_mistakes_are_loud() -> None:
    async with ends() as both:
        with pytest.raises(LocalFault):
            await both.ask(1, bytes(limits.REQUEST_BYTES_MAX + 1))
        with pytest.raises(LocalFault):
            await both.ask(1, most=limits.RESPONSE_BYTES_MAX + 1)
        with pytest.raises(LocalFault):
            await both.ask(-1)


async def test_answers_to_nobody_cost_nothing() -> None:
    async with ends() as both:
        both.asker.on_response(b"\0\0\0\7\0late")
        both.asker.on_response(b"\0\0\0\7\2late")


@given(some.binary(max_size=20))
def test_garbage_is_malformed_and_nothing_else(body: bytes) -> None:
    async def run() -> None:
        async with ends() as both:
            both.nursery.start_soon(lambda: both.ask(4))
            await trio.testing.wait_all_tasks_blocked()
            for take in (both.asker.on_response, lambda data: both.answerer.on_request(data, both.nursery)):
                try:
                    take(body)
                except Malformed:
                    pass
            both.nursery.cancel_scope.cancel()

    try:
        trio.run(run)
    except* RequestFailed:
        pass


async def test_a_status_that_does_not_exist() -> None:
    async with ends() as both:
        both.nursery.start_soon(both.ask, 4)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Malformed, match="status 9"):
            both.asker.on_response(b"\0\0\0\1\x09")
