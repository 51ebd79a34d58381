"""Questions and answers with one peer.

    REQUEST   id u32 | method u16 | body
    RESPONSE  id u32 | status u8 | a part of the body     status: 0 last part, 1 more follows, 2 refused (text)

Answers travel in parts of at most 64 KiB, as bulk, so that votes pass between the parts. A handler that raises is
logged and answered with a refusal; it can harm no connection. Not here: what the methods are (the node's handler).
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from transport.errors import LocalFault, Malformed, RequestFailed, RequestRefused
from transport.framing import Kind, encode_frame
from transport.identity import PublicKey
from transport.limits import (
    ANSWERS_AT_ONCE,
    REASON_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUESTS_SENT_MAX,
    REQUESTS_SERVED_MAX,
    RESPONSE_BYTES_MAX,
    RESPONSE_PART_BYTES_MAX,
)
from transport.log import Log
from transport.outbox import Outbox

RequestHandler = Callable[[PublicKey, int, bytes], Awaitable[bytes]]

_REQUEST: Final = struct.Struct(">IH")
_RESPONSE: Final = struct.Struct(">IB")
_LAST, _MORE, _REFUSED = 0, 1, 2


@dataclass(slots=True)
class _Question:
    bytes_max: int
    done: trio.Event = field(default_factory=trio.Event)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    failure: str | None = None


class Requests:
    """Both directions with one peer."""

    def __init__(self, key: PublicKey, *, name: str, outbox: Outbox, handler: RequestHandler, log: Log) -> None:
        self._key = key
        self._name = name
        self._outbox = outbox
        self._handler = handler
        self._log = log
        self._asked: dict[int, _Question] = {}
        self._next_id = 0
        self._slots = trio.Semaphore(REQUESTS_SENT_MAX)
        self._serving = 0
        self._answering = trio.Semaphore(ANSWERS_AT_ONCE)
        self._closed: str | None = None

    async def call(self, method: int, body: bytes, *, timeout_seconds: float, response_bytes_max: int) -> bytes:
        """Ask, and wait for the whole answer. Raises RequestFailed; cancelled, the answer is ignored when it comes."""
        if not (0 <= method <= 0xFFFF and len(body) <= REQUEST_BYTES_MAX and response_bytes_max <= RESPONSE_BYTES_MAX):
            raise LocalFault(f"a request of {len(body)} bytes for {response_bytes_max}, method {method}")
        with trio.move_on_after(timeout_seconds):
            async with self._slots:
                if self._closed is not None:
                    raise RequestFailed(self._closed)
                question = _Question(response_bytes_max)
                self._next_id = (self._next_id + 1) % 2**32
                number = self._next_id
                self._asked[number] = question
                try:
                    self._outbox.push(encode_frame(Kind.REQUEST, _REQUEST.pack(number, method), body))
                    await question.done.wait()
                finally:
                    del self._asked[number]
                if question.failure is not None:
                    raise RequestFailed(question.failure)
                return b"".join(question.parts)
        raise RequestFailed(f"no answer within {timeout_seconds:g} s")

    def on_response(self, body: bytes) -> None:
        """Take in a part. One that nobody waits for is late and costs nothing."""
        if len(body) < _RESPONSE.size:
            raise Malformed(f"a response of {len(body)} bytes")
        number, status = _RESPONSE.unpack_from(body)
        part = body[_RESPONSE.size :]
        question = self._asked.get(number)
        if question is None or question.done.is_set():
            return
        if status == _REFUSED:
            text = "".join(c if c.isprintable() else "?" for c in part[:REASON_BYTES_MAX].decode(errors="replace"))
            question.failure = f"refused: {text}"
        elif status not in (_LAST, _MORE):
            raise Malformed(f"a response of status {status}")
        else:
            question.size += len(part)
            question.parts.append(part)
            if question.size > question.bytes_max or (status == _MORE and not part):
                question.parts.clear()
                question.failure = f"the answer is longer than {question.bytes_max} bytes"
        if status != _MORE or question.failure is not None:
            question.done.set()

    def on_request(self, body: bytes, nursery: trio.Nursery) -> None:
        """Start the handler in the peer's nursery, or refuse as busy."""
        if len(body) < _REQUEST.size:
            raise Malformed(f"a request of {len(body)} bytes")
        number, method = _REQUEST.unpack_from(body)
        if self._serving >= REQUESTS_SERVED_MAX:
            self._outbox.push(_response(number, _REFUSED, b"busy"))
            return
        self._serving += 1
        nursery.start_soon(self._serve, number, method, body[_REQUEST.size :])

    def close(self, reason: str) -> None:
        """Everybody who waits for an answer gets RequestFailed."""
        self._closed = reason
        for question in self._asked.values():
            if not question.done.is_set():
                question.failure = reason
                question.done.set()

    async def _serve(self, number: int, method: int, body: bytes) -> None:
        """A peer that does not read what it asks for waits for itself: its further answers are not even made."""
        try:
            async with self._answering:
                answer = await self._answer(method, body)
                if isinstance(answer, RequestRefused):
                    text = answer.reason.encode()[:REASON_BYTES_MAX]
                    await self._outbox.push_bulk(_response(number, _REFUSED, text))
                    return
                for start in range(0, max(len(answer), 1), RESPONSE_PART_BYTES_MAX):
                    end = start + RESPONSE_PART_BYTES_MAX
                    status = _LAST if end >= len(answer) else _MORE
                    await self._outbox.push_bulk(_response(number, status, answer[start:end]))
        finally:
            self._serving -= 1

    async def _answer(self, method: int, body: bytes) -> bytes | RequestRefused:
        try:
            answer = await self._handler(self._key, method, body)
        except RequestRefused as refusal:
            return refusal
        except Exception as error:  # a bug of the node's, brought out by one peer: loud, but no reason to stop
            self._log.error("request handler failed", peer=self._name, method=method, error=repr(error))
            return RequestRefused("internal error")
        if len(answer) > RESPONSE_BYTES_MAX:
            self._log.error("answer too long", peer=self._name, method=method, bytes=len(answer))
            return RequestRefused("internal error")
        return answer


def _response(number: int, status: int, part: bytes) -> bytes:
    return encode_frame(Kind.RESPONSE, _RESPONSE.pack(number, status), part)
