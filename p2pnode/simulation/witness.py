"""What must hold whatever happens, checked at every effect of an honest node: a slow, obvious second opinion on the engine.

Every check looks at what left a node (statements, decisions, evidence), at its log and at its chain, never at the engine's own
bookkeeping, except I10, which counts what the engine holds. `INVARIANTS` says where each of I1 to I15 is checked.

For editing: a check is a function whose docstring begins with the invariant's name; the same name begins the text of its Violation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from consensus import (
    NIL,
    Block,
    ChainState,
    Commit,
    CommitCertificate,
    Engine,
    Evidence,
    Message,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    Record,
    check_block,
    check_certificate,
    check_evidence,
)
from consensus.record import Vote, content_of
from p2pnode.simulation.auditor import Auditor
from p2pnode.simulation.keys import KeyedSignatures
from p2pnode.simulation.ledger import CHAIN_ID, root_is_right
from p2pnode.simulation.memory import memory_problem
from p2pnode.simulation.people import People

INVARIANTS = {
    "I1": "Witness.agreed",
    "I2": "Witness.linked and People.problem",
    "I3": "Witness.valid and Witness.retrievable",
    "I4": "Witness.certified",
    "I5": "Witness.said_once",
    "I6": "Witness.durable_first",
    "I7": "Witness.bound_by_its_lock and Witness.backed_by_a_quorum",
    "I8": "Witness.accused",
    "I9": "Witness.fork_names_culprits and Witness.engines_name_culprits",
    "I10": "Witness.memory",
    "I11": "World.run: every node of the healed core, then every laggard, in bounded virtual time",
    "I12": "Witness.with_a_quorum",
    "I13": "Witness.nobody_honest_shunned",
    "I14": "World.trace_hash: equal for equal options, in any process",
    "I15": "Witness.restarted and Witness.same_state",
}


_read_back: set[bytes] = set()


class Violation(AssertionError):
    """An invariant is broken; the text says which."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


@lru_cache(maxsize=65536)
def _content(record: Record) -> object:
    return content_of(record, chain_id=CHAIN_ID)


@dataclass(slots=True)
class Shelf:
    """What one node's log durably holds of one height."""

    statements: set[tuple[int, int, bytes]] = field(default_factory=set)  # (kind, view, statement)
    blocks: set[bytes] = field(default_factory=set)
    prepared: set[tuple[int, bytes]] = field(default_factory=set)


class Witness:
    """`honest` are watched. `byzantine_tolerated` is false where more than f are faulty: then a fork is no violation, silence about it is."""

    def __init__(self, honest: Iterable[PublicKey], signatures: KeyedSignatures, state: ChainState, *, f: bool = True):
        self.honest = frozenset(honest)
        self.states = [state]  # by height, from the first decision of each
        self.certificates: list[CommitCertificate] = []
        self.decided_in_view: list[int] = []
        self.decided_at: list[float] = []
        self.reported: set[PublicKey] = set()
        self.evidence: list[Evidence] = []
        self.forks: list[tuple[CommitCertificate, CommitCertificate]] = []
        self.auditor = Auditor(signatures.verify)
        self._tolerated = f
        self._people = People(state, signatures.verify)
        self._verify = signatures.verify
        self._said: dict[tuple[PublicKey, int, int, int], tuple[bytes, float]] = {}
        self._locks: dict[tuple[PublicKey, int], tuple[int, bytes]] = {}
        self._shelves: dict[tuple[PublicKey, int], Shelf] = {}
        self._prepares: dict[tuple[int, int, bytes], dict[int, set[PublicKey]]] = {}  # honest ones, by valid view
        self._chains: dict[PublicKey, int] = {}

    # -- the log --

    def logged(self, author: PublicKey, record: Record) -> None:
        """A record became durable."""
        shelf = self._shelf(author, record.height)
        match content := _content(record):
            case Block():
                shelf.blocks.add(content.hash)
            case PrepareCertificate():
                shelf.prepared.add((content.view, content.block_hash))
            case Proposal() | Prepare() | Commit():
                shelf.statements.add((content.kind, content.view, content.statement(CHAIN_ID)))
                if isinstance(content, Proposal):
                    shelf.blocks.add(content.block_hash)

    def survived(self, author: PublicKey, records: Sequence[Record]) -> None:
        """A node died, and this is what its log still holds."""
        for node, height in self._shelves:
            if node == author:
                self._shelves[node, height] = Shelf()
        for record in records:
            self.logged(author, record)

    def restarted(self, author: PublicKey, engine: Engine) -> None:
        """I15 (and I7): after a restart the engine is bound by the lock that its statements show."""
        lock = self._locks.get((author, engine.height))
        if lock is not None and not engine.idle:
            require(engine.lock is not None and engine.lock[0] >= lock[0], "I15: a lock that a restart forgot")

    def _shelf(self, author: PublicKey, height: int) -> Shelf:
        shelf = self._shelves.get((author, height))
        if shelf is None:
            shelf = self._shelves[author, height] = Shelf()
        return shelf

    # -- statements --

    def said(self, author: PublicKey, message: Message, *, at: float = 0.0) -> None:
        """An honest node lets a message go."""
        require(message.author == author, "I5: a message in somebody else's name")
        statement = message.statement(CHAIN_ID)
        require(self._verify(author, statement, message.signature), "I5: a broadcast that was not signed")
        if isinstance(message, Proposal | Prepare | Commit):
            self.said_once(message, statement, at)
            self.durable_first(message, statement)
            if not isinstance(message, Proposal):
                self.bound_by_its_lock(message)
                self.backed_by_a_quorum(message)

    def said_once(self, vote: Vote, statement: bytes, at: float) -> None:
        """I5: no honest key signs two different messages for one (height, view, kind), across crashes, and none without a vote."""
        slot = (vote.author, vote.height, vote.view, int(vote.kind))
        first = self._said.setdefault(slot, (statement, at))
        require(first[0] == statement, f"I5: signed twice: {vote.kind.name} {vote.height}/{vote.view}")
        if vote.height <= len(self.states):
            committee = self.states[vote.height - 1].membership.current
            require(vote.author in committee, "I5: a vote by somebody who has none")

    def durable_first(self, vote: Vote, statement: bytes) -> None:
        """I6: no honest message left before its record was durable, nor before what it rests on was."""
        shelf = self._shelf(vote.author, vote.height)
        held = (int(vote.kind), vote.view, statement) in shelf.statements
        require(held, "I6: a vote left before its record was durable")
        if vote.block_hash == NIL:
            return
        require(vote.block_hash in shelf.blocks, f"I6: {vote.kind.name} of a block that is not durable")
        if isinstance(vote, Commit):
            held = (vote.view, vote.block_hash) in shelf.prepared
            require(held, "I6: COMMIT without a durable prepare certificate")

    def bound_by_its_lock(self, vote: Prepare | Commit) -> None:
        """I7: the lock, from the statements alone: it only rises, and binds every later PREPARE."""
        if vote.block_hash == NIL:
            return
        lock = self._locks.get((vote.author, vote.height))
        if isinstance(vote, Commit):
            require(lock is None or lock[0] <= vote.view, "I7: a lock that went back")
            self._locks[vote.author, vote.height] = (vote.view, vote.block_hash)
        elif lock is not None and vote.view > lock[0]:
            require(
                vote.valid_view >= lock[0],
                f"I7: PREPARE against the lock of view {lock[0]}, in view {vote.view}",
            )

    def backed_by_a_quorum(self, vote: Prepare | Commit) -> None:
        """I7: a COMMIT, and a vote for something prepared earlier, rests on a quorum of PREPAREs, the traitors helping."""
        if vote.block_hash == NIL:
            return
        if isinstance(vote, Prepare):
            slot = (vote.height, vote.view, vote.block_hash)
            self._prepares.setdefault(slot, {}).setdefault(vote.valid_view, set()).add(vote.author)
        view = vote.view if isinstance(vote, Commit) else vote.valid_view
        if view >= 0 and vote.height <= len(self.states):
            honest = self._prepares.get((vote.height, view, vote.block_hash), {}).values()
            most = max((len(authors) for authors in honest), default=0)
            members = self.states[vote.height - 1].membership.current.members
            possible = most + sum(1 for member in members if member not in self.honest)
            require(3 * possible > 2 * len(members), f"I7: {vote.kind.name} that rests on no quorum")

    # -- decisions --

    def decided(self, node: PublicKey, block: Block, certificate: CommitCertificate, *, at: float = 0.0) -> None:
        """A node decides, or takes a decision from others."""
        require(block.height <= len(self.states), "I2: a height decided before the one below it")
        require(block.height == self._chains.get(node, 0) + 1, "I2: a node's chain with a gap")
        self._chains[node] = block.height
        before = self.states[block.height - 1]
        self.certified(block, certificate, before)
        if block.height == len(self.states):
            self.linked(block, before)
            self.valid(block, before)
            after = before.after(block, certificate)
            problem = self._people.problem(block, before, after)
            require(problem is None, f"I2: {problem}")
            self.states.append(after)
            self.certificates.append(certificate)
            self.decided_in_view.append(certificate.view)
            self.decided_at.append(at)
        self.agreed(block, certificate)

    def agreed(self, block: Block, certificate: CommitCertificate) -> None:
        """I1: agreement per height."""
        if self.states[block.height].block_hash != block.hash:
            require(not self._tolerated, f"I1: FORK at height {block.height}")
            self.forks.append((self.certificates[block.height - 1], certificate))

    def linked(self, block: Block, before: ChainState) -> None:
        """I2: the chain is linked, and its model's root is the same on all honest nodes."""
        require(block.header.previous == before.block_hash, "I2: a block that does not follow the last")
        require(block.header.previous_root == before.model_root, "I2: a block on another model")
        require(root_is_right(block), "I2: decided a root that nobody can reproduce")

    def valid(self, block: Block, before: ChainState) -> None:
        """I3: every decided block satisfies valid() and can be read back from its bytes."""
        problem = check_block(block, before, self._verify)
        require(problem is None, f"I3: decided what does not hold: {problem}")
        require(_reads_back(block), "I3: a decided block that its bytes do not give back")

    def certified(self, block: Block, certificate: CommitCertificate, before: ChainState) -> None:
        """I4: decided only with a certificate that holds under the committee of its height."""
        committee = before.membership.current
        problem = check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=self._verify)
        require(problem is None, f"I4: decided by what is no certificate: {problem}")
        require(3 * len(certificate.signers) > 2 * len(committee), "I4: decided by two thirds or less")
        require(certificate.block_hash == block.hash, "I4: a certificate of another block")

    def with_a_quorum(self, certificate: CommitCertificate, *, group: frozenset[PublicKey], since: float) -> None:
        """I12: a group cut off `since` then, without a quorum of its own, decides only what was committed before.

        A vote that was never said alone is one whose disk failed: its author counted it, and shows it in a decision at most.
        """
        for author in certificate.authors():
            if author in self.honest and author not in group:
                said = self._said.get((author, certificate.height, certificate.view, int(Commit.kind)))
                require(
                    said is None or said[1] <= since,
                    "I12: a minority decided with votes that cannot have reached it",
                )

    def retrievable(self, chains: Iterable[Sequence[tuple[Block, CommitCertificate]]]) -> None:
        """I3: every decided block stands in some honest node's chain, at its height, with its certificate."""
        held = {block.hash for chain in chains for block, _ in chain}
        require(all(state.block_hash in held for state in self.states[1:]), "I3: a decided block that nobody holds")

    # -- accusations --

    def accused(self, evidence: Evidence) -> None:
        """I8: no evidence that an honest node reports or a chain holds names an honest node, and each piece proves what it says."""
        require(evidence.author not in self.honest, f"I8: an honest node was accused of {evidence.kind}")
        problem = check_evidence(evidence, chain_id=CHAIN_ID, verify=self._verify)
        require(problem is None, f"I8: evidence that proves nothing: {problem}")
        self.reported.add(evidence.author)
        self.evidence.append(evidence)

    def fork_names_culprits(self) -> None:
        """I9: what honest nodes hold of a fork convicts at least f + 1, and nobody honest."""
        self.auditor_names_nobody_honest()
        for one, _ in self.forks:
            committee = self.states[one.height - 1].membership.current
            guilty = self.auditor.culprits(one.height) & set(committee.members)
            require(
                len(guilty) > committee.faults_tolerated(),
                f"I9: a fork at height {one.height} with {len(guilty)} culprits, "
                f"{committee.faults_tolerated() + 1} needed",
            )

    def engines_name_culprits(self) -> None:
        """I9: once honest nodes have shown one another their decisions, their engines accuse at least f + 1."""
        for one, _ in self.forks:
            committee = self.states[one.height - 1].membership.current
            named = self.reported & set(committee.members)
            require(
                len(named) > committee.faults_tolerated(),
                f"I9: engines name {len(named)} culprits of a fork at height {one.height}",
            )

    def auditor_names_nobody_honest(self) -> None:
        """I8: the auditor, which has seen everything that honest nodes saw, convicts no honest node."""
        framed = self.auditor.guilty() & self.honest
        require(not framed, f"I8: what honest nodes hold convicts {len(framed)} honest nodes")

    def nobody_honest_shunned(self, peer: PublicKey | None, reason: str) -> None:
        """I13: nothing that an honest node says is refused for a reason that only a liar can give."""
        harmless = ("outside the committee", "out of turn", "another height")
        liar = peer is not None and peer in self.honest and not any(word in reason for word in harmless)
        require(not (liar and self._tolerated), f"I13: an honest node was refused: {reason}")

    # -- the rest --

    def memory(self, engine: Engine, *, nodes: int) -> None:
        """I10: what peers can make an engine hold is bounded."""
        problem = memory_problem(engine, nodes=nodes)
        require(problem is None, f"I10: {problem}")

    def same_state(self, state: ChainState) -> None:
        """I15: a restart at any point, and a sync from anybody, reach the state that the decided blocks lead to."""
        if self.forks:
            return
        known = self.states[state.height]
        same = (known.block_hash, known.model_root, known.membership.hash) == (
            state.block_hash,
            state.model_root,
            state.membership.hash,
        )
        require(same, f"I15: another state at height {state.height}")


def forget() -> None:
    """What is remembered across runs, when the code under test is about to change."""
    _content.cache_clear()
    _read_back.clear()


def _reads_back(block: Block) -> bool:
    if block.hash not in _read_back and Block.decode(block.encode()) == block:
        if len(_read_back) > 20_000:
            _read_back.clear()
        _read_back.add(block.hash)
    return block.hash in _read_back
