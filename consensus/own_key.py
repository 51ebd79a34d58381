"""Whether somebody else signs with our key: what our log holds, against what arrives in our name.

Two copies of one key frame their owner, so the engine that finds another signs nothing any more. Echoes of what we said, also
before a restart, are in our log and harmless. Of decided heights the log is pruned, so nothing can be told about them.  # rule X6
"""

from collections.abc import Iterator, Sequence

from consensus.advance import evidence_problem
from consensus.certificate import Certificate, own_entry
from consensus.chain import ChainState
from consensus.errors import LocalFault, Malformed
from consensus.evidence import Evidence, EvidenceKind
from consensus.identifiers import Digest, PublicKey, Verify
from consensus.messages import Commit, Message, Prepare, Proposal, ViewStatus
from consensus.record import Record, RecordKind, statement_of


class OwnKey:
    """`me` is None for a node without a key to vote with, which never finds anything."""

    def __init__(self, me: PublicKey | None, *, chain_id: Digest, verify: Verify) -> None:
        self._me = me
        self._chain_id = chain_id
        self._verify = verify
        self._signed: dict[int, set[bytes]] = {}
        self._height_min = 0  # below it our log may be pruned
        self._since = 0  # the first height of this run, or after block sync

    def restore(self, records: Sequence[Record], *, height: int) -> None:
        """The log of an earlier run, of `height` and later ones; damage here could cost a second signature, so it is loud."""
        self.begins(height)
        self.moved_to(max(height, max((record.height for record in records), default=0)))
        for record in records:
            if record.kind == RecordKind.VOTE:
                try:
                    self.signed(record.height).add(statement_of(record))
                except Malformed as fault:
                    raise LocalFault(f"the vote log is damaged at height {record.height}: {fault.reason}") from fault

    def signed(self, height: int) -> set[bytes]:
        """Our statements of this height; whoever signs one adds it here first."""
        return self._signed.setdefault(height, set())

    def begins(self, height: int) -> None:
        """What was signed before this height, an earlier run or another machine may have signed."""
        self._since = height

    def moved_to(self, height: int) -> None:
        """`height` is the next one."""
        self._height_min = max(self._height_min, height)
        self._signed = {at: signed for at, signed in self._signed.items() if at >= height}

    def message_elsewhere(self, message: Message, statement: bytes) -> str | None:
        """What shows that our key is elsewhere: a vote in our name, or a certificate inside. Statuses are in no log."""
        if message.author == self._me and isinstance(message, Proposal | Prepare | Commit):
            if self._is_ours(message.height, statement):
                return None
            return f"{message.kind.name} {message.height}/{message.view} has our signature and is not ours"
        if not isinstance(message, Proposal | ViewStatus):
            return None
        shown = (self.certificate_elsewhere(certificate) for certificate in _certificates_in(message))
        return next((problem for problem in shown if problem is not None), None)

    def certificate_elsewhere(self, certificate: Certificate) -> str | None:
        """The same for an entry in our name, which is verified alone if it is not in our log."""
        if self._me is None or certificate.height < self._height_min:
            return None
        entry = own_entry(certificate, self._me, chain_id=self._chain_id)
        if entry is None or self._is_ours(certificate.height, entry[0]) or not self._verify(self._me, *entry):
            return None
        return f"a certificate of {certificate.height}/{certificate.view} has our signature on what is not ours"

    def proof_elsewhere(self, evidence: Evidence, state: ChainState) -> str | None:
        """The same for a proof whose signatures are good.

        Not for one of before this run: anybody can show it again for ever, and whoever signs now will be heard. Nor for a proposal
        that was in turn: alone it is well-formed evidence, and only a committee tells that it proves nothing.  # rule E6
        """
        if evidence.author != self._me or evidence.height < self._since:
            return None
        if evidence.kind == EvidenceKind.WRONG_PROPOSER:
            height = state.height + 1
            if evidence.height > height or evidence_problem(evidence, state.membership, height=height) is not None:
                return None
        return f"a proof of {evidence.kind} names our key"

    def _is_ours(self, height: int, statement: bytes) -> bool:
        return height < self._height_min or statement in self._signed.get(height, ())


def _certificates_in(message: Proposal | ViewStatus) -> Iterator[Certificate]:
    shown: tuple[Certificate | None, ...]
    match message:
        case Proposal():
            shown = (message.certificate,)
        case ViewStatus():
            shown = (message.prepared, message.view_certificate)
    yield from (certificate for certificate in shown if certificate is not None)
