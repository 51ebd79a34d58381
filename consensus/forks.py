"""The latest decisions, to notice a valid decision of another block: then more than f members are faulty.

Nothing here repairs a fork; it is said once a height, and whoever signed both decisions in one view is named.  # rule A1
"""

from collections.abc import Iterator

from consensus.certificate import CommitCertificate, check_certificate, own_entry
from consensus.chain import ChainState
from consensus.committee import Committee
from consensus.evidence import Signed
from consensus.identifiers import Digest, PublicKey, Verify
from consensus.limits import DECISIONS_KEPT_MAX


class Decisions:
    def __init__(self) -> None:
        self._made: dict[int, tuple[CommitCertificate, Committee]] = {}
        self._forked: set[int] = set()

    def add(self, state: ChainState) -> None:
        """The decision that led to this state."""
        if state.last_certificate is not None:
            self._made[state.height] = (state.last_certificate, state.membership.previous)
            self._forked = {height for height in self._forked if height > state.height - DECISIONS_KEPT_MAX}
            for old in [height for height in self._made if height <= state.height - DECISIONS_KEPT_MAX]:
                del self._made[old]

    def contradicted(self, other: CommitCertificate, *, chain_id: Digest, verify: Verify) -> CommitCertificate | None:
        """Our own decision of its height, if this is a valid one of another block and the first such."""
        made = self._made.get(other.height)
        if made is None or other.block_hash == made[0].block_hash or other.height in self._forked:
            return None
        if check_certificate(other, made[1], chain_id=chain_id, verify=verify) is not None:
            return None
        self._forked.add(other.height)
        return made[0]


def double_commits(
    one: CommitCertificate, other: CommitCertificate, *, chain_id: Digest
) -> Iterator[tuple[PublicKey, Signed, Signed]]:
    """Who signed both, where they are of one view."""
    if (one.height, one.view) == (other.height, other.view):
        for author in sorted(set(one.authors()) & set(other.authors())):
            first, second = (own_entry(c, author, chain_id=chain_id) for c in (one, other))
            if first is not None and second is not None:
                yield author, first, second
