"""Peer exchange with one peer: who may ask when, and which answers are answers.

    NEWS      nothing: I have records that I had not when you last asked
    REQUEST   nonce u64 | how many u8
    RESPONSE  nonce u64 | count u8 | records of 171 bytes

One request of ours is outstanding at most; an answer that was not asked for, or is longer than asked for, ends the
connection. A peer may ask twice at first, once for every NEWS that it got, and once in ten seconds; asking more is a
fault, because answers are 50 times as long as questions. Sans-IO. Not here: the book (peerbook.py).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from transport.errors import Malformed
from transport.framing import Kind, encode_frame
from transport.limits import (
    PEX_FREE_REQUESTS,
    PEX_REQUESTS_BURST,
    PEX_SECONDS,
    PEX_TOLD_SECONDS,
    RECORDS_PER_RESPONSE_MAX,
    RECORDS_PER_SOURCE_BURST,
    RECORDS_PER_SOURCE_PER_SECOND,
    SHOWN_RECORDS_MAX,
)
from transport.peerbook import RECORD_BYTES, PeerRecord
from transport.ratelimit import TokenBucket

_HEAD: Final = struct.Struct(">QB")


class PexExchange:
    """Both directions of one connection's exchange."""

    def __init__(self, *, now: float) -> None:
        self._may_ask = TokenBucket(
            per_second=1 / PEX_SECONDS, burst=PEX_REQUESTS_BURST, now=now, tokens=PEX_FREE_REQUESTS
        )
        self._may_tell = TokenBucket(per_second=RECORDS_PER_SOURCE_PER_SECOND, burst=RECORDS_PER_SOURCE_BURST, now=now)
        self._shown: dict[bytes, float] = {}  # signatures of records that both ends have seen here, and when
        self._asked: int | None = None
        self._nonce = 0
        self._ask_again = False

    def ask(self) -> bytes | None:
        """A request to send, or None while one is outstanding (it is then asked again after the answer)."""
        if self._asked is not None:
            self._ask_again = True
            return None
        self._nonce += 1
        self._asked = self._nonce
        self._ask_again = False
        return encode_frame(Kind.PEX_REQUEST, _HEAD.pack(self._nonce, RECORDS_PER_RESPONSE_MAX))

    def news(self) -> bytes:
        """The hint to send; it entitles the peer to one more request."""
        self._may_ask.grant(1.0)
        return encode_frame(Kind.PEX_NEWS)

    def on_request(self, body: bytes, now: float) -> tuple[int, int]:
        """Nonce and number of records wanted; raises Malformed, also where the peer asks too often."""
        if len(body) != _HEAD.size:
            raise Malformed(f"a PEX request of {len(body)} bytes")
        if not self._may_ask.take(now):
            raise Malformed("it asks for peers too often")
        nonce, want = _HEAD.unpack(body)
        return nonce, min(want, RECORDS_PER_RESPONSE_MAX)

    def may_tell(self, now: float) -> bool:
        """Whether this peer may add one more record to our book."""
        return self._may_tell.take(now)

    def unseen(self, records: Iterable[PeerRecord], now: float) -> list[PeerRecord]:
        """Those that have not been on this connection, or not for long: what all know is not told all the time."""
        return [r for r in records if now - self._shown.get(r.signature, -math.inf) >= PEX_TOLD_SECONDS]

    def show(self, records: Iterable[PeerRecord], now: float) -> None:
        """These are told, or were heard, now."""
        for record in records:
            self._shown.pop(record.signature, None)
            self._shown[record.signature] = now
        for signature in list(self._shown)[: max(0, len(self._shown) - SHOWN_RECORDS_MAX)]:
            del self._shown[signature]

    def on_response(self, body: bytes) -> list[PeerRecord]:
        """The records, not verified; raises Malformed."""
        if len(body) < _HEAD.size:
            raise Malformed(f"a PEX response of {len(body)} bytes")
        nonce, count = _HEAD.unpack_from(body)
        if nonce != self._asked:
            raise Malformed("a PEX response that was not asked for")
        if count > RECORDS_PER_RESPONSE_MAX or len(body) != _HEAD.size + count * RECORD_BYTES:
            raise Malformed(f"a PEX response of {count} records in {len(body)} bytes")
        self._asked = None
        starts = range(_HEAD.size, len(body), RECORD_BYTES)
        return [PeerRecord.decode(body[start : start + RECORD_BYTES]) for start in starts]

    @property
    def wants_more(self) -> bool:
        """Whether news came while a request was outstanding."""
        return self._ask_again and self._asked is None


def encode_response(nonce: int, records: Sequence[PeerRecord]) -> bytes:
    return encode_frame(Kind.PEX_RESPONSE, _HEAD.pack(nonce, len(records)), *(r.encode() for r in records))
