"""Our own statements at one height: what was signed, what is durable, and the refusal to sign a slot twice.

Every signature that this package makes of a PROPOSAL, PREPARE or COMMIT is made here, after everything that it obliges us to
remember was put into the log. An observer's journal signs nothing and remembers nothing.
"""

from collections.abc import Callable, Sequence

from consensus.block import Block
from consensus.certificate import PrepareCertificate, ViewCertificate
from consensus.effects import Broadcast, Effect, Persist
from consensus.encoding import Kind
from consensus.errors import LocalFault
from consensus.identifiers import Digest, PublicKey, Sign, Signature
from consensus.messages import ViewStatus
from consensus.record import Vote, record_of_block, record_of_certificate, record_of_vote

UNSIGNED = Signature(bytes(64))


class Journal:
    """`me` is None where we have no vote. `emit` takes effects in the order in which they are to happen.

    `signed` gets every statement of this height that is ours.
    """

    def __init__(
        self,
        *,
        me: PublicKey | None,
        chain_id: Digest,
        sign: Sign,
        emit: Callable[[Effect], None],
        signed: set[bytes],
    ) -> None:
        self.me = me
        self._signed = signed
        self._chain_id = chain_id
        self._sign = sign
        self._emit = emit
        self._votes: dict[tuple[int, Kind], Vote] = {}
        self._durable: set[tuple[str, Digest | int]] = set()

    def restore(self, kept: Sequence[Block | PrepareCertificate | ViewCertificate | Vote]) -> None:
        """What the log of an earlier run holds is durable, and signed where it was signed.  # rule X1"""
        for thing in kept:
            match thing:
                case Block() | PrepareCertificate() | ViewCertificate():
                    self._durable.add(_name(thing))
                case _:
                    self._votes[thing.view, thing.kind] = thing
                    if thing.kind == Kind.PROPOSAL:
                        self._durable.add(("block", thing.block_hash))

    def keep(self, thing: Block | PrepareCertificate | ViewCertificate, *, view: int) -> None:
        """Durable before the vote that rests on it.  # rule D2, D3, D4"""
        if self.me is None or _name(thing) in self._durable:
            return
        self._durable.add(_name(thing))
        record = record_of_block(thing, view=view) if isinstance(thing, Block) else record_of_certificate(thing)
        self._emit(Persist(record))

    def cast(self, unsigned: Vote) -> Vote | None:
        """Sign, log, send, in that order; None where we have no vote. A slot is signed once, and only forwards.  # rule D5"""
        if self.me is None:
            return None
        slot = (unsigned.view, unsigned.kind)
        if any(slot <= signed for signed in self._votes):
            raise LocalFault(f"asked to sign {unsigned.kind.name} of view {unsigned.view} after {max(self._votes)}")
        statement = unsigned.statement(self._chain_id)
        vote = unsigned.signed(self._sign(statement))
        self._signed.add(statement)
        self._votes[slot] = vote
        if vote.kind == Kind.PROPOSAL:
            self._durable.add(("block", vote.block_hash))
        self._emit(Persist(record_of_vote(vote, chain_id=self._chain_id)))
        self._emit(Broadcast(vote))
        return vote

    def tell(self, unsigned: ViewStatus) -> ViewStatus | None:
        """A status obliges to nothing, so it is neither logged nor unique.  # rule W2"""
        if self.me is None:
            return None
        status = unsigned.signed(self._sign(unsigned.statement(self._chain_id)))
        self._emit(Broadcast(status))
        return status

    def silence(self) -> None:
        """Nothing is signed any more.  # rule X6"""
        self.me = None

    def votes(self) -> list[Vote]:
        """Everything signed at this height, in the order of its slots."""
        return [self._votes[slot] for slot in sorted(self._votes)]

    def of_view(self, view: int) -> list[Vote]:
        return [vote for vote in self.votes() if vote.view == view]


def _name(thing: Block | PrepareCertificate | ViewCertificate) -> tuple[str, Digest | int]:
    match thing:
        case Block():
            return "block", thing.hash
        case PrepareCertificate():
            return "prepare", thing.view
        case ViewCertificate():
            return "view", thing.view
