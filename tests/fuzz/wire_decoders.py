"""Fuzzing targets of the transport: one connection, peer exchange, and blobs. For editing: as decoders.py says."""

import hashlib
import struct
from collections.abc import Callable
from copy import copy
from functools import cache, partial
from typing import Any

import transport
from p2pnode.wire import FrameKind
from tests.fuzz.mutation import Target
from tests.fuzz.seeds import (
    ALICE,
    BLOB,
    BOB,
    CHAIN,
    DIGEST,
    HASHES,
    HERE,
    LEAVES,
    encoded,
    target,
)
from tests.p2pnode.little import (
    RecordingLog,
)
from transport import content, limits
from transport import statement as st
from transport.address import Address
from transport.blobs import BlobClient, BlobServer, Expected, MemoryBlobs, decode_held
from transport.framing import FRAME_BYTES_MAX, FrameDecoder, FrameJoiner, Kind, cut, encode_frame
from transport.handshake import Bye, Handshake, Refused, decode_bye, encode_bye
from transport.outbox import Outbox
from transport.peerbook import PeerRecord
from transport.pex import PexExchange, encode_response
from transport.reachability import Result, decode_answer, decode_question, encode_answer
from transport.requests import Requests, _Question
from transport.sharing import Sharing
from transport.spread import Spread
from transport.tls import TlsPeer, identify
from transport.transfer import FetchPlan


def wire_targets() -> list[Target]:
    return [*_connection(), *_exchange(), *_blobs()]


# --- one connection ----------------------------------------------------------------------------------------------------------


def _connection() -> list[Target]:
    record = PeerRecord.sign(ALICE, CHAIN, sequence=5, address=HERE)
    vote = _vote().frame()
    pong = encode_frame(Kind.PONG, bytes(8))
    stream = b"".join((pong, encode_response(3, [record] * 2), vote, encode_frame(FrameKind.STATUS, b"\x90"), pong))
    mine = PeerRecord.sign(BOB, CHAIN, sequence=5, address=HERE)
    hellos = [_bob(None).start()[5:], _bob(mine).start()[5:]]
    how: dict[str, Any] = {"refusals": (Refused,), "bytes_max": limits.HELLO_BYTES_MAX}
    return [
        target("frames", _frames, stream, vote * 2, bytes_max=limits.READ_BYTES),
        target("hello", partial(_hear, Kind.HELLO), *hellos, **how),
        target("signed hello", _signed_hello, *(hello[96:] for hello in hellos), **how),
        target("handshake", _handshake, b"\2" + _heard().id, b"\1" + hellos[0], b"\3\1why", **how),
        target("bye", decode_bye, encode_bye(Bye.TWIN, "elsewhere")[5:], bytes_max=FRAME_BYTES_MAX[Kind.BYE]),
        target("certificate of a leaf", identify, bytes_max=limits.CERTIFICATE_BYTES_MAX),
        target("response", _response, *_ANSWERS, bytes_max=FRAME_BYTES_MAX[Kind.RESPONSE]),
    ]


def _vote() -> transport.Envelope:
    signed = st.make_statement(0x12, CHAIN, bytes(44))
    return transport.Envelope(ALICE.public_key, ALICE.sign(signed), signed)


_ANSWERS = tuple(struct.pack(">IB", 7, status) + b"part of an answer" for status in (0, 1, 2))


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    """In one piece and in several: the same frames come out, they are what came in, and what is held does not grow."""
    pieces = FrameDecoder()
    frames: list[tuple[int, bytes]] = []
    step = len(data) // 5 + 1
    for start in range(0, len(data), step):
        pieces.feed(data[start : start + step])
        assert len(pieces._buffer) < 2 * limits.MIB
        frames += pieces
    whole = FrameDecoder()
    whole.feed(data)
    assert list(whole) == frames
    assert data.startswith(b"".join(encode_frame(kind, body) for kind, body in frames))
    return frames


@cache
def _alice() -> Handshake:
    return _end(ALICE, BOB, None, is_client=False)


@cache
def _bob(record: PeerRecord | None) -> Handshake:
    return _end(BOB, ALICE, record, is_client=True)


def _end(me: transport.Identity, other: transport.Identity, record: PeerRecord | None, *, is_client: bool) -> Handshake:
    leaf, remote = (hashlib.sha256(each.public_key).digest() for each in (me, other))
    return Handshake(
        identity=me,
        leaf_hash=leaf,
        remote=TlsPeer(other.public_key, remote),
        is_client=is_client,
        chain_id=CHAIN,
        record=record,
        nonce=bytes(32),
    )


def _hear(kind: int, body: bytes) -> object:
    return copy(_alice()).receive(kind, body)


@cache
def _signed_bytes() -> int:
    """How much of a HELLO, behind key and signature, is signed."""
    return len(_bob(None).start()) - 5 - 96


def _signed_hello(data: bytes) -> object:
    """What somebody can say who signs whatever it says."""
    return _hear(Kind.HELLO, BOB.public_key + BOB.sign(data[: _signed_bytes()]) + data)


@cache
def _heard() -> Handshake:
    """Alice, who has heard a true HELLO."""
    alice = copy(_alice())
    alice.receive(Kind.HELLO, _bob(None).start()[5:])
    return alice


def _handshake(data: bytes) -> object:
    """Anything after that: the first byte is the kind of frame."""
    return copy(_heard()).receive(data[0] if data else 0, data[1:])


def _response(data: bytes) -> object:
    questions = Requests(ALICE.public_key, name="a", outbox=Outbox(), handler=_nobody, log=RecordingLog())
    question = questions._asked[7] = _Question(bytes_max=1000)
    questions.on_response(data)
    assert question.size <= 1000 + limits.RESPONSE_PART_BYTES_MAX
    assert question.failure is None or question.failure.isprintable()
    return question.failure is None


async def _nobody(*_: object) -> bytes:
    return b""


# --- peer exchange -----------------------------------------------------------------------------------------------------------


def _exchange() -> list[Target]:
    addresses = (HERE, Address("2001:db8::1", 1), Address("8.8.8.8", 65535))
    records = [PeerRecord.sign(ALICE, CHAIN, sequence=5, address=address) for address in addresses]
    answers = [encode_response(1, some)[5:] for some in ((), records[:1], records)]
    seeds = [record.encode() for record in records]
    longest = FRAME_BYTES_MAX[Kind.PEX_RESPONSE]
    return [
        target("peer record", PeerRecord.decode, *seeds, bytes_max=len(seeds[0]), again=encoded),
        target("pex request", _pex_request, struct.pack(">QB", 1, 64), bytes_max=9),
        target("pex answer", _pex_answer, *answers, bytes_max=longest),
        target("dial back", decode_question, struct.pack(">QH", 1, 7337), bytes_max=10),
        target("dialed back", decode_answer, encode_answer(1, Result.REACHED, 1e9)[5:], bytes_max=17),
    ]


def _pex_request(data: bytes) -> object:
    nonce, count = PexExchange(now=0.0).on_request(data, 0.0)
    return encode_response(nonce, ()), range(limits.RECORDS_PER_RESPONSE_MAX + 1).index(count)


def _pex_answer(data: bytes) -> object:
    exchange = PexExchange(now=0.0)
    exchange.ask()
    records = exchange.on_response(data)
    assert len(records) <= limits.RECORDS_PER_RESPONSE_MAX
    return records


# --- blobs -------------------------------------------------------------------------------------------------------------------


def _blobs() -> list[Target]:
    tree = content.levels(HASHES)
    leaves = [struct.pack(">II", 1, index) + bytes(leaf) for index, leaf in enumerate(LEAVES)]
    pieces = [
        DIGEST + struct.pack(">IB", index, 1) + b"".join(content.inclusion_path(tree, index)) + bytes(LEAVES[index])
        for index in (0, 2)
    ]
    wanted = struct.pack(">I32sI", 1, DIGEST, 0)
    number = struct.pack(">I", 1)
    return [
        target("hashes wanted", partial(_wanted, Kind.HASHES_WANTED), wanted + struct.pack(">I", 3), bytes_max=44),
        target("leaves wanted", partial(_wanted, Kind.LEAVES_WANTED), wanted + struct.pack(">H", 3), bytes_max=42),
        target("held wanted", partial(_wanted, Kind.HELD_WANTED), wanted, bytes_max=40),
        target("held", _held, number + b"\x80", number, number + bytes(9), bytes_max=FRAME_BYTES_MAX[Kind.HELD]),
        target("hashes", _hashes, number + b"".join(HASHES), bytes_max=FRAME_BYTES_MAX[Kind.HASHES]),
        target("leaf", _leaf, leaves[2], leaves[1], bytes_max=FRAME_BYTES_MAX[Kind.LEAF]),
        target("blob refused", _blob_refused, struct.pack(">IB", 1, 1), bytes_max=5),
        target("spread", _spread, pieces[1], pieces[0], bytes_max=limits.LEAF_BYTES + 200),
        target("parts", _parts, *_cut_frames(), bytes_max=3 * limits.LEAF_BYTES),
    ]


def _wanted(kind: int, data: bytes) -> object:
    server = BlobServer("a", ALICE.public_key, Outbox(), Sharing(MemoryBlobs()), RecordingLog())
    if kind == Kind.HELD_WANTED:
        server.on_held_wanted(data)
    else:
        server.on_wanted(kind, data)
    return server


def _client(take: Callable[[int, Any], str | None]) -> BlobClient:
    client = BlobClient(Outbox())
    client._expected[1] = Expected(2, take)
    return client


def _held(data: bytes) -> object:
    """What a peer says that it holds, as a fetch takes it: the plan may believe it, and find nothing that does not exist."""
    plan = FetchPlan(DIGEST, len(BLOB), hashes=HASHES)

    def take(_: int, bits: Any) -> str | None:
        plan.holds(b"somebody", decode_held(bits))
        return None

    _client(take).on_held(data)
    wanted = plan.take(b"somebody", now=0.0, patience_seconds=1.0)
    assert wanted is None or wanted.first + wanted.count <= plan.leaf_count
    return wanted


def _hashes(data: bytes) -> object:
    plan = FetchPlan(DIGEST, len(BLOB))
    _client(lambda _, joined: None if plan.accept_hashes(bytes(joined)) else "a lie").on_hashes(data)
    return plan.hashes is None


def _leaf(data: bytes) -> object:
    plan = FetchPlan(DIGEST, len(BLOB), hashes=HASHES)
    client = _client(lambda index, leaf: None if plan.accept_leaf(index, leaf) else "a lie")
    client.on_leaf(data)
    return client._expected[1].failure is None


def _blob_refused(data: bytes) -> object:
    client = _client(lambda *_: None)
    client.on_refused(data)
    return client._expected[1].failure


def _spread(data: bytes) -> object:
    return Spread(DIGEST, len(BLOB)).take(b"somebody", data) is None


def _cut_frames() -> list[bytes]:
    leaf = encode_frame(Kind.LEAF, bytes(8) + bytes(range(256)) * 4)
    parts = [*cut(leaf, number=1, bytes_max=400), *cut(leaf, number=2, bytes_max=800)]
    return [b"".join(parts), b"".join([*parts[:2], *parts[-2:], *parts])]


def _parts(data: bytes) -> object:
    """A stream of frames of which those that are parts are put together, in no more memory than one frame takes."""
    decoder, joiner, frames = FrameDecoder(), FrameJoiner(), []
    decoder.feed(data)
    for kind, body in decoder:
        if kind == Kind.PART:
            frame = joiner.take(body)
            assert len(joiner._parts) <= limits.APPLICATION_FRAME_BYTES_MAX + limits.LEAF_BYTES
            if frame is not None:
                assert len(frame[1]) <= FRAME_BYTES_MAX[frame[0]]
                frames.append(frame)
    return frames
