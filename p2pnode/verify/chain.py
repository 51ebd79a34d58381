"""Every height from the genesis on: the block follows, its certificate convinces the committee of its height, nothing is missing.

Rules for editing: the rules are those of ``consensus``; here is only the order, and the naming of what fails.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import consensus
import transport
from consensus.verified import VerifiedSignatures
from p2pnode.genesis import Genesis
from p2pnode.verify.report import Report

PROGRESS_SECONDS = 2.0  # a chain that takes longer is worth a line


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In a certificate's place, where the block above would hold it and cannot be read: that block is at fault."""

    byte: int
    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """A height as it was stored; ``byte`` is where its block stands, in a file where that means something."""

    height: int
    block: bytes
    certificate: bytes | Unreadable
    byte: int | None = None


@dataclass(slots=True)
class VerifiedChain:
    """What is left of a chain once it is checked. Lists have an entry for each height, the genesis first."""

    genesis: Genesis
    state: consensus.ChainState
    hashes: list[consensus.Digest] = field(default_factory=list)
    roots: list[consensus.Digest] = field(default_factory=list)
    committees: list[consensus.Committee] = field(default_factory=list)

    def add(self, state: consensus.ChainState) -> None:
        self.committees.append(self.state.membership.current)  # that decided this height
        self.state = state
        self.hashes.append(state.block_hash)
        self.roots.append(state.model_root)


def check_chain(
    genesis: Genesis, rows: Iterator[Row], *, file: str, report: Report, progress: Callable[[str], None]
) -> VerifiedChain:
    """As far as it holds; the first fault ends it, because nothing above can be judged."""
    state = genesis.state()
    chain = VerifiedChain(genesis, state, [state.block_hash], [state.model_root], [state.membership.current])
    verified = 0

    def count(author: consensus.PublicKey, statement: bytes, signature: consensus.Signature) -> bool:
        nonlocal verified
        verified += 1
        return transport.verify(author, statement, signature)

    verify = VerifiedSignatures(count)  # a block repeats the certificate before it
    told = time.monotonic()
    for row in rows:
        match _check_row(row, chain.state, verify):
            case Unreadable(byte=byte, why=why):
                report.fault(file, why, height=row.height + 1, field="block", byte=byte)
                break
            case (str(where), str(what)):
                report.fault(file, what, height=chain.state.height + 1, field=where, byte=row.byte)
                break
            case consensus.ChainState() as found:
                chain.add(found)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            progress(f"height {row.height}: {verified} signatures verified")
    report.heights, report.signatures = chain.state.height, verified
    report.model_root, report.members = chain.state.model_root, len(chain.state.membership.current)
    return chain


def _check_row(
    row: Row, state: consensus.ChainState, verify: consensus.Verify
) -> consensus.ChainState | tuple[str, str] | Unreadable:
    """The state that this height leads to, or the field at fault and why."""
    if row.height != state.height + 1:
        return "block", f"missing: height {row.height} follows height {state.height}"
    try:
        block = consensus.Block.decode(row.block)
    except ValueError as problem:
        return "block", str(problem)
    problem_found = consensus.check_block(block, state, verify)
    if problem_found is not None:
        return "block", problem_found
    if isinstance(row.certificate, Unreadable):
        return row.certificate
    try:
        certificate = consensus.decode_certificate(row.certificate)
    except ValueError as problem:
        return "certificate", str(problem)
    if not isinstance(certificate, consensus.CommitCertificate):
        return "certificate", "it is not one of commits"
    if certificate.height != block.height or certificate.block_hash != block.hash:
        return "certificate", "it is for another block"
    committee = state.membership.current
    problem_found = consensus.check_certificate(certificate, committee, chain_id=state.chain_id, verify=verify)
    if problem_found is not None:
        return "certificate", problem_found
    return state.after(block, certificate)
