"""Every decoder that sees bytes of a stranger, as a fuzzing target with true inputs to start from.

What it is: the list, and for each entry the code that a node runs on such bytes, up to the first thing that needs more than the bytes.
`FRAMES`, `STATEMENTS` and `METHODS` say which target covers which kind; a test compares them with the protocol's own lists.
What it is not: the inputs (mutation.py), or the judge of what comes out (test_decoders.py).

For editing: a new kind of frame, statement or request needs a line in its table, and a decoder a target. A decoder that says no must say
so with a declared error; do not add an exception here to make a target quiet. All of it runs inside trio.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
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
from p2pnode.verify.chain import Unreadable
from p2pnode.verify.report import Report
from tests.consensus.bench import Bench
from tests.fuzz.mutation import Target
from tests.fuzz.seeds import (
    ALICE,
    CHAIN,
    encoded,
    target,
)
from tests.fuzz.wire_decoders import wire_targets
from tests.p2pnode.conftest import Target as ControlTarget
from tests.p2pnode.little import (
    LAYOUT,
    MODEL,
    PAYLOAD_BYTES,
    TRAINING,
    Chain,
    identities,
    make_genesis,
    payload,
)
from transport import limits
from transport.machine import MACHINE, Machine

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
    made = [*wire_targets(), *_agreement(), *_messages(), *_talk(), *_documents(), *_model()]
    return {target.name: target for target in made}


# --- agreement ---------------------------------------------------------------------------------------------------------------


@cache
def _bench() -> Bench:
    return Bench()


@cache
def _block() -> consensus.Block:
    return _bench().block(1, 0, 1, 2)


@cache
def _full() -> consensus.Block:
    """With something in each of its lists."""
    leave = _bench().sign(_leave())
    return _bench().block_on(_bench().state, 0, 1, evidence=_proofs()[:1], requests=(leave,))


def _proofs() -> list[Evidence]:
    bench, block = _bench(), _block()
    offences = [
        (bench.prepare(1, 0, None), bench.prepare(1, 0, block)),
        (bench.commit(1, 1, block), bench.prepare(1, 2, bench.block(1, 3))),
        (bench.proposal(2, 0, block),),
    ]
    return [evidence_of(pair[0].author, *((m.statement(CHAIN_ID), m.signature) for m in pair)) for pair in offences]


def _agreement() -> list[Target]:
    bench, block = _bench(), _block()
    committed = bench.committed(0, block, (0, 1, 2))
    certificates = [bench.prepared(0, block, (1, 2, 3)), committed, bench.view_ends(1, (0, 1, 2))]
    after = _after()
    proofs = _proofs()
    blocks = [block.encode(), bench.block(1).encode(), _full().encode(), bench.block_on(after, 0, 2).encode()]
    join = bench.sign(_join()).invitation.encode()
    how: dict[str, Any] = {"refusals": (consensus.Malformed,), "again": encoded}
    longest = BLOCK_BYTES_MAX
    return [
        target("block", _read_block, *blocks, bytes_max=longest, **how),
        target("sealed block", _sealed_block, *blocks, bytes_max=longest, refusals=(consensus.Malformed,)),
        target("certificate", _certificate, *(c.encode() for c in certificates), bytes_max=20_000, **how),
        target("evidence", _evidence, *(proof.encode() for proof in proofs), bytes_max=1000, **how),
        target("invitation", Invitation.decode, join, bytes_max=INVITATION_BYTES, **how),
    ]


@cache
def _after() -> consensus.ChainState:
    return _bench().state.after(_block(), _bench().committed(0, _block(), (0, 1, 2)))


def _read_block(data: bytes) -> consensus.Block:
    block = consensus.Block.decode(data)
    _problem(block)
    return block


def _problem(block: consensus.Block) -> str | None:
    """Of the first height, or of the second, whose blocks carry a certificate."""
    state = _after() if block.height == 2 else _bench().state
    return consensus.check_block(block, state, _bench().signatures.verify)


def _sealed_block(data: bytes) -> object:
    """The same where somebody has put the right hashes into the header of whatever lists it likes; what is wrong with it all the same."""
    reader = Reader(data, what="block", bytes_max=BLOCK_BYTES_MAX)
    header = BlockHeader.decode(reader.take(BLOCK_HEADER.size))
    start = BLOCK_HEADER.size
    lists = []
    for width, read in ((2, partial(_read_contribution, height=header.height)), (1, read_evidence), (1, read_request)):
        lists.append(tuple(read(reader) for _ in range(reader.count(width, 64))))
    certificate = decode_certificate(data_of) if (data_of := reader.sized()) else None
    if not isinstance(certificate, consensus.CommitCertificate | None):
        raise consensus.Malformed("not one of commits")
    sealed = replace(
        header,
        contributions_hash=contributions_hash(lists[0]),
        evidence_hash=evidence_hash(lists[1]),
        requests_hash=requests_hash(lists[2]),
        last_certificate_hash=certificate_hash(certificate),
    )
    problem = _problem(consensus.Block.decode(sealed.encode() + data[start:]))
    return problem and re.sub("[0-9]+", "N", problem)


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


def _leave() -> consensus.Leave:
    return consensus.Leave(key(1), 1, consensus.Signature(b""))


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
        "leave": [bench.sign(_leave())],
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
        target("envelope", _any_envelope, *votes, claims.encode(), **known),
        target("links", _any_envelope, claims.encode(), **known),
        target("token", _any_envelope, *stray, **known),
        *(
            target(name, _any_envelope, *(_envelope(message).encode() for message in messages), **known)
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
    page = [(block.encode(), certificate.encode()), (_full().encode(), certificate.encode())]
    vote = _envelope(_bench().prepare(1, 0, block)).encode()
    status = wire.Status(height=5, model_root=bytes(32), role=wire.Role.MEMBER, learning=6)
    how: dict[str, Any] = {"refusals": (wire.Malformed, consensus.Malformed), "tokens": _MSGPACK}
    return [
        target("status", _status, status.encode(), bytes_max=limits.APPLICATION_FRAME_BYTES_MAX, **how),
        target(
            "blocks request",
            wire.decode_blocks_request,
            wire.encode_blocks_request(1, 64),
            bytes_max=limits.REQUEST_BYTES_MAX,
            **how,
        ),
        target(
            "blocks page",
            gossip.read_page,
            wire.encode_blocks(page[:1]),
            wire.encode_blocks(page),
            bytes_max=wire.BLOCKS_RESPONSE_BYTES_MAX,
            **how,
        ),
        target(
            "snapshots",
            wire.decode_snapshots,
            wire.encode_snapshots([(9, bytes(32)), (2**40, bytes(32))]),
            bytes_max=wire.SNAPSHOTS_BYTES_MAX,
            **how,
        ),
        target("spoken", _spoken, wire.encode_spoken([vote] * 2), bytes_max=wire.SPOKEN_BYTES_MAX, **how),
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
    for each in wire.decode_spoken(data):
        try:
            found.append(transport.Envelope.decode(each))
        except transport.Malformed as problem:
            raise wire.Malformed(str(problem)) from None
    return found


# --- whole documents ---------------------------------------------------------------------------------------------------------


def _documents() -> list[Target]:
    founders = identities(4)
    documents = [
        make_genesis(founders).to_bytes(),
        make_genesis(founders, addresses=("192.0.2.1:1", "[2001:db8::1]:1", "node.example:65535", "")).to_bytes(),
        make_genesis(founders, imported=True).to_bytes(),
        make_genesis(
            founders[:1],
            policy="allowlist",
            allowlist=(founders[0].public_key,),
            refounded=genesis.Refounded(bytes(32), 7, bytes(32)),
        ).to_bytes(),
    ]
    line = tokens.token_text(tokens.Token(bytes(32), bytes(32), 7, bytes(32), bytes(64))).encode()
    return [
        target(
            "genesis",
            genesis.parse,
            *documents,
            bytes_max=genesis.GENESIS_BYTES_MAX,
            refusals=(UserError,),
            again=lambda value: value.to_bytes(),
            tokens=_JSON,
        ),
        target("invitation as text", _token, line, bytes_max=1000, refusals=(ValueError,)),
        target("chain file", _chain_file, *_chains(), bytes_max=1 << 16, refusals=(SetUpError, _Faulty)),
        target("control request", _control, *_CONTROL, bytes_max=5000, refusals=(), tokens=_JSON),
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


class _Faulty(Exception):
    """What a report said of it."""


def _chain_file(data: bytes) -> object:
    """Taken apart; how many of its certificates cannot be read."""
    report = Report(path="chain")
    found = chainfile.parse(data, Path("chain"), report)
    if found is None:
        raise _Faulty(report.faults[0].line())
    assert not report.faults
    return sum(isinstance(row.certificate, Unreadable) for row in found.rows)


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
        target("payload", _payload, payload(1), bytes_max=PAYLOAD_BYTES, refusals=(PayloadError,)),
        target("model", _replica, whole, bytes_max=len(whole), refusals=(SnapshotError,)),
    ]


def _payload(data: bytes) -> object:
    values = compression.dequantize(compression.decode(data, LAYOUT))
    assert compression.encode(values, LAYOUT) == data
    return values


def _replica(data: bytes) -> object:
    replica = Replica.from_bytes(MODEL, TRAINING, data)
    assert b"".join(replica.leaves()) == data
    return replica
