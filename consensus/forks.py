"""The latest decisions and what they rested on, to notice a valid decision of another block: then more than f members are faulty.

Nothing here repairs a fork. It is said once a height, and every certificate that arrives about a forked height is compared with
those that this node held of it: whoever stands in two that no honest member stands in is named.  # rule A1, A3
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from consensus.certificate import CommitCertificate, PrepareCertificate, check_certificate, signed_statements
from consensus.chain import ChainState
from consensus.committee import Committee
from consensus.evidence import Signed, is_amnesia
from consensus.identifiers import Digest, PublicKey, Verify
from consensus.limits import DECISIONS_KEPT_MAX, FORK_CERTIFICATES_MAX

Quorate: TypeAlias = PrepareCertificate | CommitCertificate


@dataclass(slots=True)
class _Decided:
    block_hash: Digest
    committee: Committee
    held: tuple[Quorate, ...]  # ours, verified
    others: list[Quorate] = field(default_factory=list)  # of a fork, verified


class Decisions:
    def __init__(self) -> None:
        self._made: dict[int, _Decided] = {}

    def add(self, state: ChainState, held: Sequence[Quorate]) -> None:
        """The decision that led to this state, and every certificate of its height that we have."""
        if state.last_certificate is not None:
            held = tuple(held) or (state.last_certificate,)
            self._made[state.height] = _Decided(state.block_hash, state.membership.previous, held)
            for old in [height for height in self._made if height <= state.height - DECISIONS_KEPT_MAX]:
                del self._made[old]

    def held(self, height: int) -> tuple[Quorate, ...]:
        """What shows others who is to blame for a fork at this height."""
        decided = self._made.get(height)
        return () if decided is None else decided.held

    def hear(self, other: Quorate, *, chain_id: Digest, verify: Verify) -> bool | None:
        """True for the first valid decision of another block at its height, False for more about that fork, None for all else."""
        decided = self._made.get(other.height)
        if decided is None or other in decided.others or len(decided.others) >= FORK_CERTIFICATES_MAX:
            return None
        forks = isinstance(other, CommitCertificate) and other.block_hash != decided.block_hash
        known = bool(decided.others)
        if (
            not (known or forks)
            or check_certificate(other, decided.committee, chain_id=chain_id, verify=verify) is not None
        ):
            return None
        decided.others.append(other)
        return not known

    def offences(self, other: Quorate, *, chain_id: Digest) -> Iterator[tuple[PublicKey, Signed, Signed]]:
        """Who stands in this certificate and in one of ours of its height, where no honest member stands in both."""
        theirs = {author: (statement, signature) for author, statement, signature in signed_statements(other, chain_id)}
        for ours in self.held(other.height):
            if _excludes(ours, other):
                for author, statement, signature in signed_statements(ours, chain_id):
                    if author in theirs:
                        yield author, (statement, signature), theirs[author]


def _excludes(one: Quorate, other: Quorate) -> bool:
    """# rule E1, A2"""
    match one, other:
        case CommitCertificate(), CommitCertificate():
            return one.view == other.view and one.block_hash != other.block_hash
        case PrepareCertificate(), PrepareCertificate():
            values = [(c.block_hash, c.valid_view) for c in (one, other)]
            return one.view == other.view and values[0] != values[1]
        case CommitCertificate() as commit, PrepareCertificate() as prepare:
            return is_amnesia((commit.view, commit.block_hash), (prepare.view, prepare.block_hash, prepare.valid_view))
        case PrepareCertificate(), CommitCertificate():
            return _excludes(other, one)
    return False
