"""What lies beside the chain in a home, each against what the chain certifies: key, vote log, snapshots, payloads.

The vote log must be readable, signed by this home's key, and say nothing twice: two statements for one slot, or one that the chain
contradicts, is what a copied key or a bad disk leaves.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import consensus
import transport
from consensus.record import content_of
from model.errors import SnapshotError
from model.replica import Replica
from model.snapshot import read_header
from p2pnode.gossip import message_of
from p2pnode.home import Home
from p2pnode.recovery import read_records
from p2pnode.verify.chain import VerifiedChain
from p2pnode.verify.database import Database
from p2pnode.verify.report import Report
from p2pnode.vote_records import Announced, Decided, Moved, Signed, VoteRecord
from p2pnode.wal import recover
from transport import content
from transport.limits import LEAF_BYTES

_KEY_FILE = re.compile(rb"[0-9a-f]{64}\n?")
_DIGEST_NAME = re.compile(r"[0-9a-f]{64}")
_CHAIN_IN_VOTE = slice(
    117, 149
)  # of a logged vote: author 32, signature 64, length 4, then domain 16, kind 1, chain 32


@dataclass(frozen=True, slots=True)
class Logged:
    """The vote log as it was found."""

    file: str
    records: tuple[VoteRecord, ...]


def read_votes(home: Home, report: Report) -> Logged:
    """The log's records; what the file itself shows to be wrong is reported."""
    recovered = recover(home.votes)
    records, problem = read_records(recovered)
    if recovered.lost:
        report.fault(home.votes.name, "it is missing, though this home has had one")
    elif problem is not None:
        place, _, what = problem.partition(": ")
        at = int(place.removeprefix("byte ")) if place.startswith("byte ") else None
        report.fault(home.votes.name, what if at is not None else problem, byte=at)
    elif recovered.torn_bytes:
        report.note(
            f"{home.votes.name}: its last {recovered.torn_bytes} bytes were cut off by a crash, and never acknowledged"
        )
    return Logged(home.votes.name, records)


def check_key(home: Home, pinned: bytes | None, logged: Logged, report: Report) -> bytes | None:
    """The public key of this home, where its file is what it was."""
    file = home.key.name
    if home.moved.exists():
        report.note(f"{file}: it has moved to another home")
        return None
    if not home.key.exists():
        report.note(f"{file}: there is none here")
        return None
    try:
        found = transport.Identity.load(home.key).public_key
    except transport.UserError as problem:
        report.fault(file, str(problem))
        return None
    if not _KEY_FILE.fullmatch(home.key.read_bytes()):
        report.fault(file, "it is not written as this program writes a key")
    authors = _authors(logged) if pinned is None else {pinned}
    if not authors:
        report.note(f"{file}: nothing here to compare it with")
    elif authors != {found}:
        other = transport.short_id(min(authors))
        report.fault(file, f"it is the key of node {transport.short_id(found)}, and this home is that of {other}")
        return None
    return found


def _authors(logged: Logged) -> set[bytes]:
    try:
        return {said.author for said in _statements(logged, None)}
    except ValueError:
        return set()  # `check_votes` says so


def _statements(logged: Logged, chain_id: consensus.Digest | None) -> list[consensus.Message]:
    """Every signed statement in the log, of this network or of whichever each names. Raises ValueError where a record holds none."""
    found: list[consensus.Message] = []
    for record in logged.records:
        match record:
            case Signed(record=inner) if inner.kind is consensus.RecordKind.VOTE:
                thing = content_of(inner, chain_id=chain_id or consensus.Digest(inner.data[_CHAIN_IN_VOTE]))
                if not isinstance(thing, consensus.Proposal | consensus.Prepare | consensus.Commit):
                    raise consensus.Malformed("a vote that is none")
                found.append(thing)
            case Signed(record=inner):
                content_of(inner, chain_id=chain_id or consensus.NIL)  # a block or a certificate: whether it is one
            case Announced(envelope=envelope):
                found.append(message_of(chain_id or consensus.Digest(envelope.chain_id()), envelope))
    return found


def check_votes(logged: Logged, chain: VerifiedChain, database: Database, key: bytes | None) -> None:
    """Nothing in the log against itself, its author's key, or the chain."""
    report, chain_id = database.report, chain.state.chain_id
    try:
        statements = _statements(logged, chain_id)
    except ValueError as problem:
        report.fault(logged.file, str(problem))
        return
    slots: dict[tuple[object, ...], consensus.Message] = {}
    for said in statements:
        if key is not None and said.author != key:
            report.fault(logged.file, "a statement of another key", height=said.height, field=said.kind.name.lower())
        elif not transport.verify(said.author, said.statement(chain_id), said.signature):
            report.fault(
                logged.file, "a signature that does not verify", height=said.height, field=said.kind.name.lower()
            )
        slot = _slot(said)
        other = slots.setdefault(slot, said)
        if other.statement(chain_id) != said.statement(chain_id):
            report.fault(logged.file, "two statements for one slot", height=said.height, field=said.kind.name.lower())
    report.statements = len(statements)
    top = _check_decisions(logged, chain, report)
    seen = max((said.height for said in slots.values()), default=0)
    top = max(
        [top, *(record.height for record in logged.records if isinstance(record, Moved))]
    )  # decided in another home
    if chain.state.height == database.height() and seen > top + 1:
        report.fault(
            database.file,
            f"it ends at height {chain.state.height}, and {logged.file} shows statements of height {seen}",
        )
    for said in slots.values():
        if said.height <= chain.state.height:
            _check_against(said, database, logged, verified=chain.state.height)


def _slot(said: consensus.Message) -> tuple[object, ...]:
    purpose = said.purpose if isinstance(said, consensus.Contribution) else None
    return said.height, said.view, said.kind, purpose


def _check_decisions(logged: Logged, chain: VerifiedChain, report: Report) -> int:
    """Decisions in the log are those of the chain, or follow it. Returns the highest height that is decided here."""
    state = chain.state
    for record in logged.records:
        if not isinstance(record, Decided):
            continue
        if record.height <= state.height:
            if record.height < len(chain.hashes) and chain.hashes[record.height] != record.block.hash:
                report.fault(logged.file, "it is not the block of the chain", height=record.height, field="decision")
            continue
        problem = consensus.check_block(record.block, state, transport.verify) or consensus.check_certificate(
            record.certificate, state.membership.current, chain_id=state.chain_id, verify=transport.verify
        )
        if problem is not None or record.certificate.block_hash != record.block.hash:
            report.fault(logged.file, problem or "another block", height=record.height, field="decision")
            break
        state = state.after(record.block, record.certificate)
        report.note(f"{logged.file}: height {record.height} was decided and is not in the chain file yet")
    return state.height


def _check_against(said: consensus.Message, database: Database, logged: Logged, *, verified: int) -> None:
    """Whatever the chain shows of this author for the same slot is the same."""
    row, above = database.row(said.height), database.row(said.height + 1) if said.height < verified else None
    if row is None:
        return
    if isinstance(said, consensus.Contribution):
        block = consensus.Block.decode(row[0])
        shown = [c.signature for c in block.contributions if (c.author, c.purpose) == (said.author, said.purpose)]
    elif isinstance(said, consensus.Commit):
        certificates = [consensus.decode_certificate(row[1])]
        if above is not None and (repeated := consensus.Block.decode(above[0]).last_certificate) is not None:
            certificates.append(repeated)
        shown = [
            signature
            for certificate in certificates
            if isinstance(certificate, consensus.CommitCertificate) and certificate.view == said.view
            for author, signature in certificate.signers
            if author == said.author
        ]
    else:
        return
    if any(signature != said.signature for signature in shown):
        database.report.fault(
            logged.file, "the chain shows another one of this node", height=said.height, field=said.kind.name.lower()
        )


# --- models and payloads ---------------------------------------------------------------------------------------------------------------


def snapshot_heights(home: Home) -> Iterator[tuple[int, Path]]:
    for path in sorted(home.snapshots.glob("*.safetensors")):
        if path.stem.isdecimal():
            yield int(path.stem), path


def check_snapshots(home: Home, chain: VerifiedChain, report: Report) -> None:
    """Each is the model that the chain certifies for its height, and its header says what such a header says."""
    for height, path in snapshot_heights(home):
        name = f"{home.snapshots.name}/{path.name}"
        if height >= len(chain.roots):
            report.note(f"{name}: of a height above those verified")
            continue
        try:
            replica = Replica.load(path)
            said = read_header(path)
        except FileNotFoundError:
            continue  # a running node has replaced it by a newer one
        except (SnapshotError, OSError) as problem:
            report.fault(name, getattr(problem, "message", str(problem)).removeprefix(f"{path}: "), height=height)
            continue
        root: bytes = content.content_digest(replica.leaves(), replica.byte_length)
        if root != chain.roots[height]:
            report.fault(
                name, f"its root is {root.hex()[:16]}, certified is {chain.roots[height].hex()[:16]}", height=height
            )
            continue
        genesis = chain.genesis
        expected = {
            "height": str(height),
            "model_root": root.hex(),
            "model_config": json.dumps(genesis.model.to_dict()),
            "training_config": json.dumps(genesis.training.to_dict()),
        }
        wrong = [key for key in sorted(expected.keys() | said.keys()) if expected.get(key) != said.get(key)]
        if wrong:
            report.fault(name, "its header says something else", height=height, field=wrong[0])
            continue
        report.snapshots += 1


def check_blobs(home: Home, report: Report, progress: Callable[[str], None]) -> None:
    """Every payload and text is what its name says."""
    for path in sorted(home.blobs.glob("*/*")):
        name = f"{home.blobs.name}/{path.parent.name}/{path.name}"
        if path.name.endswith(".part"):
            continue
        if not _DIGEST_NAME.fullmatch(path.name) or path.parent.name != path.name[:2]:
            report.note(f"{name}: no name of a payload")
            continue
        try:
            digest, length = _digest_of_file(path)
        except FileNotFoundError:
            continue  # a running node has swept it
        except OSError as problem:
            report.fault(name, str(problem))
            continue
        if digest.hex() != path.name:
            report.fault(name, f"its {length} bytes are not those of its name")
            continue
        report.payloads += 1
        if report.payloads % 1000 == 0:
            progress(f"{report.payloads} payloads")


def _digest_of_file(path: Path) -> tuple[bytes, int]:
    """A leaf at a time: a text may be larger than the memory. Raises OSError."""
    length, hashes = 0, []
    with path.open("rb") as file:
        while leaf := file.read(LEAF_BYTES):
            length += len(leaf)
            hashes.append(content.leaf_hash(leaf))
    return content.digest_of_hashes(hashes, length), length
