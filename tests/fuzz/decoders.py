"""Every decoder that sees bytes of a stranger, as a fuzzing target with true inputs to start from.

What it is: the list, and for each entry the code that a node runs on such bytes, up to the first thing that needs more than the bytes.
`FRAMES`, `STATEMENTS` and `METHODS` say which target covers which kind; a test compares them with the protocol's own lists.
What it is not: the inputs (mutation.py), or the judge of what comes out (test_decoders.py).

For editing: a new kind of frame, statement or request needs a line in its table, and a decoder a target. A decoder that says no must say
so with a declared error; do not add an exception here to make a target quiet. All of it runs inside trio.
"""

import hashlib
import struct
import tempfile
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import consensus
import transport
from consensus.block import _HEADER as BLOCK_HEADER
from consensus.block import (
    BlockHeader,
    _read_contribution,
    certificate_hash,
    contributions_hash,
    evidence_hash,
    requests_hash,
)
from consensus.certificate import decode_certificate
from consensus.encoding import Reader
from consensus.evidence import Evidence, check_evidence, evidence_of, read_evidence
from consensus.limits import BLOCK_BYTES_MAX
from consensus.requests import INVITATION_BYTES, Invitation, invitation_statement, read_request, token_statement
from model import compression
from model.errors import PayloadError, SnapshotError
from model.replica import Replica
from p2pnode import control, genesis, gossip, links, tokens, wire
from p2pnode.errors import SetUpError, UserError
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from p2pnode.verify import chainfile
from p2pnode.verify.report import Report
from p2pnode.wire import FrameKind
from tests.consensus.bench import Bench
from tests.fuzz.mutation import Target
from tests.p2pnode.conftest import Target as ControlTarget
from tests.p2pnode.little import (
    LAYOUT,
    MODEL,
    PAYLOAD_BYTES,
    TRAINING,
    Chain,
    RecordingLog,
    identities,
    make_genesis,
    payload,
)
from transport import content, limits
from transport import statement as st
from transport.address import Address
from transport.blobs import BlobClient, BlobServer, Expected, MemoryBlobs, decode_held
from transport.framing import FRAME_BYTES_MAX, FrameDecoder, FrameJoiner, Kind, cut, encode_frame
from transport.handshake import Bye, Handshake, Refused, decode_bye, encode_bye
from transport.machine import MACHINE, Machine
from transport.outbox import Outbox
from transport.peerbook import PeerRecord
from transport.pex import PexExchange, encode_response
from transport.reachability import Result, decode_answer, decode_question, encode_answer
from transport.requests import Requests, _Question
from transport.sharing import Sharing
from transport.spread import Spread
from transport.tls import TlsPeer, identify
from transport.transfer import FetchPlan

CORPUS = Path(__file__).parent / "corpus"
CHAIN = st.ChainId(CHAIN_ID)
HERE = Address("127.0.0.1", 7337)
ALICE, BOB = identities(2)
BLOB = bytes(range(256)) * 520  # two leaves and a part
LEAVES = content.split(BLOB)
HASHES = content.leaf_hashes(LEAVES)
DIGEST = content.digest_of(BLOB)

FRAMES: Mapping[str, str] = {
    "HELLO": "hello",
    "ACK": "handshake",
    "BYE": "bye",
    "PING": "frames",  # sent back as it came
    "PONG": "live session",
    "TWIN": "live session",
    "PART": "parts",
    "PEX_NEWS": "frames",
    "PEX_REQUEST": "pex request",
    "PEX_RESPONSE": "pex answer",
    "DIAL_BACK": "dial back",
    "DIALED_BACK": "dialed back",
    "ENVELOPE": "envelope",
    "REQUEST": "live session",
    "RESPONSE": "response",
    "HASHES_WANTED": "hashes wanted",
    "HASHES": "hashes",
    "LEAVES_WANTED": "leaves wanted",
    "LEAF": "leaf",
    "BLOB_REFUSED": "blob refused",
    "HELD_WANTED": "held wanted",
    "HELD": "held",
    "STATUS": "status",
    "CERTIFICATE": "certificate",
    "EVIDENCE": "evidence",
    "SPREAD": "spread",
}
STATEMENTS: Mapping[str, str] = {
    "CONTRIBUTION": "contribution",
    "LEAVE": "leave",
    "JOIN": "join",
    "INVITATION": "invitation",
    "TOKEN": "token",
    "PROPOSAL": "proposal",
    "PREPARE": "prepare",
    "COMMIT": "commit",
    "VIEW_STATUS": "view status",
    "LINKS": "links",
}
METHODS: Mapping[str, str] = {
    "GENESIS": "genesis",
    "BLOCKS": "blocks page",
    "BLOCK": "block",
    "SNAPSHOTS": "snapshots",
    "SPOKEN": "spoken",
}


@cache
def targets() -> Mapping[str, Target]:
    """All of them, by name."""
    made = [*_connection(), *_exchange(), *_blobs(), *_agreement(), *_messages(), *_talk(), *_documents(), *_model()]
    return {target.name: target for target in made}


def corpus(name: str) -> tuple[bytes, ...]:
    """Inputs that are kept: of bugs that were found, and of places that are hard to reach. A line is hex, and why behind a #."""
    path = CORPUS / f"{name.replace(' ', '_')}.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    kept = (line.partition("#")[0].strip() for line in lines)
    return tuple(bytes.fromhex(line) for line in kept if line)


def _target(name: str, decode: Callable[[bytes], object], *seeds: bytes, **how: Any) -> Target:
    how.setdefault("refusals", (transport.Malformed,))
    return Target(name, decode, seeds=(*seeds, *corpus(name)), **how)


def _encoded(value: Any) -> bytes:
    return bytes(value.encode())


# --- one connection ----------------------------------------------------------------------------------------------------------


def _connection() -> list[Target]:
    record = PeerRecord.sign(ALICE, CHAIN, sequence=5, address=HERE)
    vote = _envelope(_bench().prepare(1, 0, _block())).frame()
    pong = encode_frame(Kind.PONG, bytes(8))
    stream = b"".join((pong, encode_response(3, [record] * 2), vote, encode_frame(FrameKind.STATUS, b"\x90"), pong))
    mine = PeerRecord.sign(BOB, CHAIN, sequence=5, address=HERE)
    hellos = [_bob(None).start()[5:], _bob(mine).start()[5:]]
    how: dict[str, Any] = {"refusals": (Refused,), "bytes_max": limits.HELLO_BYTES_MAX}
    return [
        _target("frames", _frames, stream, vote * 2, bytes_max=limits.READ_BYTES),
        _target("hello", partial(_hear, Kind.HELLO), *hellos, **how),
        _target("signed hello", _signed_hello, *(hello[96:] for hello in hellos), **how),
        _target("handshake", _handshake, b"\2" + _true_id(), b"\1" + hellos[0], b"\3\1why", **how),
        _target("bye", decode_bye, encode_bye(Bye.TWIN, "elsewhere")[5:], bytes_max=FRAME_BYTES_MAX[Kind.BYE]),
        _target("certificate of a leaf", identify, bytes_max=limits.CERTIFICATE_BYTES_MAX),
        _target("response", _response, *_ANSWERS, bytes_max=FRAME_BYTES_MAX[Kind.RESPONSE]),
    ]


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


def _true_id() -> bytes:
    alice = copy(_alice())
    alice.receive(Kind.HELLO, _bob(None).start()[5:])
    return alice.id


def _handshake(data: bytes) -> object:
    """A true HELLO, then anything: the first byte is the kind of frame."""
    alice = copy(_alice())
    alice.receive(Kind.HELLO, _bob(None).start()[5:])
    return alice.receive(data[0] if data else 0, data[1:])


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
        _target("peer record", PeerRecord.decode, *seeds, bytes_max=len(seeds[0]), again=_encoded),
        _target("pex request", _pex_request, struct.pack(">QB", 1, 64), bytes_max=9),
        _target("pex answer", _pex_answer, *answers, bytes_max=longest),
        _target("dial back", decode_question, struct.pack(">QH", 1, 7337), bytes_max=10),
        _target("dialed back", decode_answer, encode_answer(1, Result.REACHED, 1e9)[5:], bytes_max=17),
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
        _target("hashes wanted", partial(_wanted, Kind.HASHES_WANTED), wanted + struct.pack(">I", 3), bytes_max=44),
        _target("leaves wanted", partial(_wanted, Kind.LEAVES_WANTED), wanted + struct.pack(">H", 3), bytes_max=42),
        _target("held wanted", partial(_wanted, Kind.HELD_WANTED), wanted, bytes_max=40),
        _target("held", _held, number + b"\x80", number, number + bytes(9), bytes_max=FRAME_BYTES_MAX[Kind.HELD]),
        _target("hashes", _hashes, number + b"".join(HASHES), bytes_max=FRAME_BYTES_MAX[Kind.HASHES]),
        _target("leaf", _leaf, leaves[2], leaves[1], bytes_max=FRAME_BYTES_MAX[Kind.LEAF]),
        _target("blob refused", _blob_refused, struct.pack(">IB", 1, 1), bytes_max=5),
        _target("spread", _spread, pieces[1], pieces[0], bytes_max=limits.LEAF_BYTES + 200),
        _target("parts", _parts, *_cut_frames(), bytes_max=3 * limits.LEAF_BYTES),
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


# --- agreement ---------------------------------------------------------------------------------------------------------------


@cache
def _bench() -> Bench:
    return Bench()


@cache
def _block() -> consensus.Block:
    return _bench().block(1, 0, 1, 2)


def _agreement() -> list[Target]:
    bench, block = _bench(), _block()
    committed = bench.committed(0, block, (0, 1, 2))
    certificates = [bench.prepared(0, block, (1, 2, 3)), committed, bench.view_ends(1, (0, 1, 2))]
    after = bench.state.after(block, committed)
    offences = [
        (bench.prepare(1, 0, None), bench.prepare(1, 0, block)),
        (bench.commit(1, 1, block), bench.prepare(1, 2, bench.block(1, 3))),
        (bench.proposal(2, 0, block),),
    ]
    proofs = [evidence_of(pair[0].author, *((m.statement(CHAIN_ID), m.signature) for m in pair)) for pair in offences]
    blocks = [block.encode(), bench.block(1).encode(), bench.block_on(after, 0, 2).encode()]
    join = bench.sign(_join()).invitation.encode()
    how: dict[str, Any] = {"refusals": (consensus.Malformed,), "again": _encoded}
    longest = BLOCK_BYTES_MAX
    return [
        _target("block", _read_block, *blocks, bytes_max=longest, **how),
        _target("sealed block", _sealed_block, *blocks, bytes_max=longest, refusals=(consensus.Malformed,)),
        _target("certificate", _certificate, *(c.encode() for c in certificates), bytes_max=20_000, **how),
        _target("evidence", _evidence, *(proof.encode() for proof in proofs), bytes_max=1000, **how),
        _target("invitation", Invitation.decode, join, bytes_max=INVITATION_BYTES, **how),
    ]


def _read_block(data: bytes) -> consensus.Block:
    block = consensus.Block.decode(data)
    consensus.check_block(block, _bench().state, _bench().signatures.verify)
    return block


def _sealed_block(data: bytes) -> object:
    """The same where somebody has put the right hashes into the header of whatever lists it likes."""
    reader = Reader(data, what="block", bytes_max=BLOCK_BYTES_MAX)
    header = BlockHeader.decode(reader.take(BLOCK_HEADER.size))
    start = BLOCK_HEADER.size
    lists = []
    for width, read in ((2, partial(_read_contribution, height=header.height)), (1, read_evidence), (1, read_request)):
        lists.append(tuple(read(reader) for _ in range(reader.count(width, 64))))
    certificate = decode_certificate(encoded) if (encoded := reader.sized()) else None
    if not isinstance(certificate, consensus.CommitCertificate | None):
        raise consensus.Malformed("not one of commits")
    sealed = replace(
        header,
        contributions_hash=contributions_hash(lists[0]),
        evidence_hash=evidence_hash(lists[1]),
        requests_hash=requests_hash(lists[2]),
        last_certificate_hash=certificate_hash(certificate),
    )
    return _read_block(sealed.encode() + data[start:])


def _certificate(data: bytes) -> consensus.Certificate:
    certificate = consensus.decode_certificate(data)
    committee, verify = _bench().state.membership.current, _bench().signatures.verify
    consensus.check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=verify)
    return certificate


def _evidence(data: bytes) -> Evidence:
    evidence = Evidence.decode(data)
    check_evidence(evidence, chain_id=CHAIN_ID, verify=_bench().signatures.verify)
    assert evidence.height >= 0 and evidence.view >= 0
    return evidence


def _join() -> consensus.Join:
    none = consensus.Signature(bytes(64))
    return consensus.Join(key(9), 1, Invitation(key(0), key(8), 100, none), none, none)


# --- envelopes and what they carry -------------------------------------------------------------------------------------------


def _messages() -> list[Target]:
    bench, block = _bench(), _block()
    prepared = bench.prepared(0, block, (1, 2, 3))
    status = bench.status(1, 2, prepared)
    claims = links.Links(ALICE.public_key).say(
        [key(1), key(2)], chain_id=CHAIN, sign=ALICE.sign, now=0.0, unix_seconds=1e9
    )
    assert claims is not None
    stray = [
        _alone(invitation_statement(CHAIN_ID, key(8), 100)).encode(),
        _alone(token_statement(CHAIN_ID, key(8))).encode(),
    ]
    said = {
        "contribution": [contribution(bench.signatures, 1, bench.state)],
        "leave": [bench.sign(consensus.Leave(key(1), 1, consensus.Signature(b"")))],
        "join": [bench.sign(_join())],
        "proposal": [bench.proposal(1, 0, block), bench.proposal(2, 1, block, prepared)],
        "prepare": [bench.prepare(1, 3, block, 2), bench.prepare(1, 0, None)],
        "commit": [bench.commit(1, 0, block), bench.commit(1, 0, None)],
        "view status": [bench.status(1, 1), status],
    }
    votes = [_envelope(message).encode() for messages in said.values() for message in messages]
    how: dict[str, Any] = {"bytes_max": limits.ENVELOPE_BYTES_MAX, "again": lambda pair: pair[0].encode()}
    known = {"refusals": (transport.Malformed, consensus.Malformed, links.Malformed), **how}
    return [
        _target("envelope", _any_envelope, *votes, claims.encode(), **known),
        _target("links", _any_envelope, claims.encode(), **known),
        _target("token", _any_envelope, *stray, **known),
        *(
            _target(name, _any_envelope, *(_envelope(message).encode() for message in messages), **known)
            for name, messages in said.items()
        ),
    ]


def _envelope(message: Any) -> transport.Envelope:
    """A message of the bench as it travels; its signature is the bench's, padded to the width of one."""
    signature = message.signature[:64].ljust(64, b"\0")
    author = transport.PublicKey(message.author)
    return transport.Envelope(author, signature, message.statement(CHAIN_ID), message.attachment())


def _alone(statement: bytes) -> transport.Envelope:
    return transport.Envelope(ALICE.public_key, ALICE.sign(statement), statement)


def _any_envelope(data: bytes) -> tuple[transport.Envelope, object]:
    """As `Session` and `Gossip` take one apart; whether its author signed it is asked, and does not matter here."""
    envelope = transport.Envelope.decode(data)
    assert envelope.chain_id() is not None
    if envelope.kind == links.LINKS_KIND:
        return envelope, links.Links(b"me").take(envelope, [envelope.author])
    message = gossip.message_of(CHAIN_ID, envelope)
    assert message.statement(CHAIN_ID) == envelope.statement and message.attachment() == envelope.attachment
    return envelope, message


# --- talk of nodes -----------------------------------------------------------------------------------------------------------


def _talk() -> list[Target]:
    block, certificate = _block(), _bench().committed(0, _block(), (0, 1, 2))
    page = [(block.encode(), certificate.encode())]
    vote = _envelope(_bench().prepare(1, 0, block)).encode()
    status = wire.Status(height=5, model_root=bytes(32), role=wire.Role.MEMBER, learning=6)
    how: dict[str, Any] = {"refusals": (wire.Malformed, consensus.Malformed), "tokens": _MSGPACK}
    return [
        _target("status", _status, status.encode(), bytes_max=limits.APPLICATION_FRAME_BYTES_MAX, **how),
        _target(
            "blocks request",
            wire.decode_blocks_request,
            wire.encode_blocks_request(1, 64),
            bytes_max=limits.REQUEST_BYTES_MAX,
            **how,
        ),
        _target(
            "blocks page",
            gossip.read_page,
            wire.encode_blocks(page),
            wire.encode_blocks(page * 2),
            bytes_max=wire.BLOCKS_RESPONSE_BYTES_MAX,
            **how,
        ),
        _target(
            "snapshots",
            wire.decode_snapshots,
            wire.encode_snapshots([(9, bytes(32)), (2**40, bytes(32))]),
            bytes_max=wire.SNAPSHOTS_BYTES_MAX,
            **how,
        ),
        _target("spoken", _spoken, wire.encode_spoken([vote] * 2), bytes_max=wire.SPOKEN_BYTES_MAX, **how),
    ]


# Lists, maps, strings, bytes and extensions with the lengths that they may claim, the largest integers, NaN, and what is never used.
_CLAIMS = "91 92 94 dc0020 ddffffffff 80 81 deffff dfffffffff a1 dbffffffff c6ffffffff c400 c420 c7ff01 d8ff"
_NUMBERS = "cfffffffffffffffff d38000000000000000 cb7ff8000000000000 ca7f800000 cc05 cf0000000000000005 c0 c1 c2"
_MSGPACK = tuple(bytes.fromhex(each) for each in f"{_CLAIMS} {_NUMBERS}".split())


def _status(data: bytes) -> object:
    status = wire.Status.decode(data)
    assert wire.Status.decode(status.encode()) == status
    return status


def _spoken(data: bytes) -> list[transport.Envelope]:
    found = []
    for encoded in wire.decode_spoken(data):
        try:
            found.append(transport.Envelope.decode(encoded))
        except transport.Malformed as problem:
            raise wire.Malformed(str(problem)) from None
    return found


# --- whole documents ---------------------------------------------------------------------------------------------------------


def _documents() -> list[Target]:
    founders = identities(4)
    documents = [
        make_genesis(founders).to_bytes(),
        make_genesis(founders, addresses=("192.0.2.1:1", "[2001:db8::1]:1", "node.example:65535", "")).to_bytes(),
        make_genesis(
            founders[:1],
            policy="allowlist",
            allowlist=(founders[0].public_key,),
            refounded=genesis.Refounded(bytes(32), 7, bytes(32)),
        ).to_bytes(),
    ]
    line = tokens.token_text(tokens.Token(bytes(32), bytes(32), 7, bytes(32), bytes(64))).encode()
    return [
        _target(
            "genesis",
            genesis.parse,
            *documents,
            bytes_max=genesis.GENESIS_BYTES_MAX,
            refusals=(UserError,),
            again=lambda value: value.to_bytes(),
            tokens=_JSON,
        ),
        _target("invitation as text", _token, line, bytes_max=1000, refusals=(ValueError,)),
        _target("chain file", _chain_file, *_chains(), bytes_max=1 << 16, refusals=(SetUpError,)),
        _target("control request", _control, *_CONTROL, bytes_max=5000, refusals=(), tokens=_JSON),
    ]


_FORMS = '{ } [ ] "" , : null true 1e999 -1 1.0 NaN Infinity "\\ud800" {"a":1} [[[[ 9999999999999999999999'
_WORDS = '"threshold_percent" "rounds" "since" "founders" /trace/ ?last= GET POST'
_JSON = tuple(f"{_FORMS} {_WORDS}".encode().split())
_CONTROL = (
    b"GET /status\n",
    b"GET /rounds?last=20\n",
    b"GET /log?last=3&x=%20\n",
    b"GET /trace/7\n",
    b'POST /train\n{"rounds":3,"since":null}',
    b'POST /invite\n{"heights":100}',
    b"POST /pause\n{}",
)


def _token(data: bytes) -> object:
    return tokens.parse_token(data.decode("latin-1"))


def _chains() -> list[bytes]:
    found = []
    for heights in (0, 2):
        chain = Chain(2).grow(heights)
        sized = [chain.genesis.to_bytes()], [block.encode() for block, _ in chain.decided]
        last = chain.decided[-1][1].encode() if heights else b""
        parts = [*map(_sized, sized[0]), heights.to_bytes(8, "big"), *map(_sized, sized[1]), _sized(last)]
        body = chainfile.MAGIC + b"".join(parts)
        found.append(body + hashlib.sha256(body).digest())
    return found


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _chain_file(data: bytes) -> object:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        report = Report(path="chain")
        found = chainfile.read(Path(file.name), report)
    assert (found is None) == bool(report.faults)
    return None if found is None else [*found.rows]


class _Inline(Machine):
    """What would go to a thread is done where it stands, so that a coroutine never waits."""

    async def in_thread(self, call: Callable[..., Any], *args: Any, **_: Any) -> Any:
        return call(*args)


def _control(data: bytes) -> object:
    """A request line, and a body below it. A bug behind a route answers 500, so an answer of 500 is one."""
    line, _, body = data.partition(b"\n")
    method, _, where = line.decode("latin-1").partition(" ")
    path, _, query = where.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode("latin-1")}
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        statuses.append(event.get("status", 0))

    before = MACHINE.set(_Inline())
    try:
        control.application(ControlTarget())(scope, receive, send).send(None)
    except StopIteration:
        pass
    finally:
        MACHINE.reset(before)
    broken = path == "/evidence" and method == "GET"  # the stand-in's own bug
    assert statuses[0] in ((500,) if broken else (200, 400, 404, 405, 409, 413)), statuses
    return statuses[0]


# --- models and updates ------------------------------------------------------------------------------------------------------


def _model() -> list[Target]:
    replica = Replica.initial(MODEL, TRAINING, 7)
    whole = b"".join(replica.leaves())
    return [
        _target("payload", _payload, payload(1), bytes_max=PAYLOAD_BYTES, refusals=(PayloadError,)),
        _target("model", _replica, whole, bytes_max=len(whole), refusals=(SnapshotError,)),
    ]


def _payload(data: bytes) -> object:
    values = compression.dequantize(compression.decode(data, LAYOUT))
    assert compression.encode(values, LAYOUT) == data
    return values


def _replica(data: bytes) -> object:
    replica = Replica.from_bytes(MODEL, TRAINING, data)
    assert b"".join(replica.leaves()) == data
    return replica
