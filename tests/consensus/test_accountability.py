"""The two theorems of accountability. No honest node is ever in evidence; and with f < Byzantine <= 2f every fork names f+1 culprits.

The first is checked against everything that honest nodes sign in simulated scenarios: no two of their statements, no one alone, and
none with somebody else's makes evidence. The second on forks that are built on purpose: in one view and across views, by scripts that
avoid every double signature, so that only amnesia is left to show, and by twins. `forks.py` compares what both sides held.
"""

from collections.abc import Iterator
from itertools import chain, combinations

import pytest

from consensus import (
    NIL,
    Begin,
    Block,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
    Certificate,
    CertificateReceived,
    ChainState,
    CheckBlock,
    Commit,
    CommitCertificate,
    Decide,
    Effect,
    Engine,
    Event,
    Evidence,
    FetchBlock,
    Forked,
    Malformed,
    Message,
    MessageReceived,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    RecordKind,
    ReportEvidence,
    Signature,
    StartHeight,
    Synced,
    TimerFired,
    Verify,
    ViewCertificate,
    ViewStatus,
    check_evidence,
)
from consensus.advance import evidence_problem
from consensus.certificate import signed_statements
from consensus.events import Timer, TimerKind
from consensus.evidence import Signed, evidence_of
from consensus.record import content_of
from p2pnode.simulation import lockstep, witness
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution
from p2pnode.simulation.process import Shameless
from tests.consensus.bench import Bench

UNSIGNED = Signature(bytes(64))


class Heard:
    """Every statement that some honest node holds, alone or in a certificate, and whom any two of them, or one, convict."""

    def __init__(self, state: ChainState) -> None:
        self._state = state
        self._held: dict[bytes, dict[bytes, Signature]] = {}

    def add(self, thing: Message | Certificate) -> None:
        match thing:
            case PrepareCertificate() | CommitCertificate() | ViewCertificate():
                for author, statement, signature in signed_statements(thing, CHAIN_ID):
                    self._held.setdefault(author, {})[statement] = signature
            case _:
                self._held.setdefault(thing.author, {})[thing.statement(CHAIN_ID)] = thing.signature
                inside = {Proposal: ("certificate",), ViewStatus: ("prepared", "view_certificate")}
                for name in inside.get(type(thing), ()):
                    if getattr(thing, name) is not None:
                        self.add(getattr(thing, name))

    def evidence(self) -> Iterator[Evidence]:
        """All that anybody could make of it for the block of height 1."""
        for author, held in self._held.items():
            for signed in chain(combinations(held.items(), 1), combinations(held.items(), 2)):
                yield from possible(PublicKey(author), *signed, state=self._state)

    def culprits(self) -> set[bytes]:
        return {evidence.author for evidence in self.evidence()}


def possible(author: PublicKey, *signed: Signed, state: ChainState, verify: Verify | None = None) -> list[Evidence]:
    try:
        evidence = evidence_of(author, *signed)
    except Malformed:
        return []
    if evidence_problem(evidence, state.membership, height=state.height + 1) is not None:
        return []
    if verify is not None and check_evidence(evidence, chain_id=CHAIN_ID, verify=verify) is not None:
        return []
    return [evidence]


class Side:
    """Some engines that hear one another and the traitors, and nobody else."""

    def __init__(self, fork: "Fork", engines: dict[int, Engine], taste: int) -> None:
        self.fork = fork
        self.engines = engines
        self.taste = taste
        self.decided: dict[int, Decide] = {}
        self.queue: list[tuple[int, Event]] = []
        self.shown: list[object] = []  # what engines of this side broadcast as certificates
        self.reported: list[Evidence] = []
        self.forked: set[int] = set()

    def step(self, i: int, event: Event) -> None:
        self.queue.append((i, event))
        while self.queue:
            target, event = self.queue.pop(0)
            for effect in self.engines[target].step(event):
                self._carry_out(target, effect)

    def everybody(self, *events: Event) -> None:
        for event in events:
            for i in self.engines:
                self.step(i, event)

    def hear(self, *messages: Message) -> None:
        for message in messages:
            self.fork.heard.add(message)
        self.everybody(*(MessageReceived(message) for message in messages))

    def fire(self, kind: TimerKind, view: int) -> None:
        self.everybody(TimerFired(Timer(kind, 1, view)))

    def view(
        self, view: int, block: Block | None = None, proposal: Proposal | None = None, *, ends: bool = True
    ) -> None:
        """One view of this side. The traitors PREPARE and COMMIT `block` (or what they said elsewhere in this view, or NIL).

        With `ends` false nothing is decided: the traitors' COMMITs are for NIL.
        """
        fork = self.fork
        self.fire(TimerKind.SYNC, view)
        if proposal is not None:
            self.hear(proposal)
        self.fire(TimerKind.PROPOSE, view)
        valid_view = -1 if block is None else fork.valid_views.get((view, block.hash), -1)
        self.hear(*fork.traitors_say(self, Prepare, view, None if block is None else block.hash, valid_view))
        self.fire(TimerKind.PREPARE, view)
        committed = None if block is None or not ends else block.hash
        self.hear(*fork.traitors_say(self, Commit, view, committed))
        self.fire(TimerKind.COMMIT, view)

    def _carry_out(self, i: int, effect: Effect) -> None:
        others = [j for j in self.engines if j != i]
        match effect:
            case Broadcast(message):
                self.fork.heard.add(message)
                if isinstance(message, Proposal) and message.certificate is not None:
                    self.fork.valid_views[message.view, message.block_hash] = message.valid_view
                self.queue += [(j, MessageReceived(message)) for j in others]
            case BroadcastCertificate(certificate):
                self.shown.append(certificate)
                self.queue += [(j, CertificateReceived(certificate)) for j in others]
            case CheckBlock(block):
                self.queue.append((i, BlockChecked(block.hash, True)))
            case BuildBlock() if i in self.fork.twins:
                offered = [contribution(self.fork.bench.signatures, self.taste, effect.template.state)]
                self.queue.append((i, BlockBuilt(1, effect.view, block_on(effect.template, offered))))
            case FetchBlock():
                found = (e.block(effect.block_hash) for e in self.engines.values())
                self.queue += [(i, BlockReceived(block)) for block in found if block is not None]
            case Decide():
                self.decided[i] = effect
            case ReportEvidence(evidence):
                self.reported.append(evidence)
            case Forked():
                self.forked.add(i)
            case _:
                pass


class Fork:
    """`byzantine` traitors, n1 and the following, between two sides of honest engines that do not hear each other."""

    def __init__(self, nodes: int, byzantine: int, *, twins: bool = False) -> None:
        self.bench = Bench(nodes=nodes)
        self.state = self.bench.state
        self.nodes, self.f = nodes, (nodes - 1) // 3
        assert self.f < byzantine <= 2 * self.f
        self.traitors = list(range(1, 1 + byzantine))
        self.honest = [i for i in range(nodes) if i not in self.traitors]
        self.twins = set(self.traitors) if twins else set()
        self.heard = Heard(self.state)
        self.valid_views: dict[tuple[int, bytes], int] = {}
        self.said: dict[tuple[type, int], tuple[bytes, int]] = {}  # by the traitors, first
        self.equivocate = False
        half = len(self.honest) // 2
        self.sides = [self._side(self.honest[:half], taste=0), self._side(self.honest[half:], taste=1)]
        for side in self.sides:
            side.everybody(Begin(), StartHeight(1))

    def _side(self, honest: list[int], taste: int) -> Side:
        return Side(self, {i: self._engine(i) for i in [*honest, *sorted(self.twins)]}, taste)

    def _engine(self, i: int) -> Engine:
        signatures = self.bench.signatures
        return (Shameless if i in self.twins else Engine)(
            me=key(i), sign=signatures.signer(key(i)), verify=signatures.verify, state=self.state
        )

    def block(self, contributor: int) -> Block:
        return self.bench.block(1, contributor)

    def proposal(self, view: int, block: Block, *, prepared: int | None = None) -> Proposal:
        """By the traitor whose turn it is; `prepared`: the view of the certificate that justifies it."""
        author = (1 + view) % self.nodes
        assert author in self.traitors
        certificate = None if prepared is None else self.certificate(prepared, block)
        if certificate is not None:
            self.valid_views[view, block.hash] = certificate.view
        elif block.header.proposer != key(author):
            block = self.bench.block(author, 0)
        return self.bench.proposal(author, view, block, certificate)

    def certificate(self, view: int, block: Block) -> PrepareCertificate:
        """As the side on which it was prepared holds it."""
        for side in self.sides:
            for engine in side.engines.values():
                for thing in engine.greeting():
                    if isinstance(thing, PrepareCertificate) and (thing.view, thing.block_hash) == (view, block.hash):
                        return thing
        raise AssertionError(f"nobody holds a certificate of view {view}")

    def traitors_say(
        self, side: Side, kind: type, view: int, name: bytes | None, valid_view: int = -1
    ) -> Iterator[Prepare | Commit]:
        """What they said first in this slot, unless they equivocate; NIL, where they have nothing to say."""
        if self.twins:
            return
        wanted = (NIL, -1) if name is None else (name, valid_view)
        first = self.said.setdefault((kind, view), wanted)
        value = wanted if self.equivocate else first
        for author in self.traitors:
            if kind is Commit:
                yield self.bench.sign(Commit(key(author), 1, view, value[0], UNSIGNED))
            else:
                yield self.bench.sign(Prepare(key(author), 1, view, *value, UNSIGNED))

    # -- what came of it --

    def forked(self) -> bool:
        names = [{side.decided[i].block.hash for i in side.engines if i in side.decided} for side in self.sides]
        return all(names) and not names[0] & names[1]

    def exchange(self, *, greet: bool = True) -> None:
        """The link between the sides comes back: decisions are repeated, and what forks show goes to everybody."""
        for side in self.sides if greet else ():
            side.shown = [
                thing for i, engine in side.engines.items() if i in self.honest for thing in engine.greeting()
            ]
        for _ in range(3):
            passing = [list(side.shown) for side in self.sides]
            for side, arriving in zip(self.sides, reversed(passing), strict=True):
                side.shown = []
                for thing in arriving:
                    side.everybody(CertificateReceived(thing))  # type: ignore[arg-type]

    def kinds(self) -> set[str]:
        return {str(evidence.kind) for side in self.sides for evidence in side.reported}


SIZES = [(4, 2), (7, 3), (7, 4)]


def same_view(fork: Fork, view: int) -> None:
    fork.equivocate = True
    for side in fork.sides:
        for idle in range(view):
            side.view(idle)
    for side, contributor in zip(fork.sides, (2, 3), strict=True):
        block = fork.bench.block((1 + view) % fork.nodes, contributor)
        side.view(view, block, fork.proposal(view, block))


def across_views(fork: Fork) -> None:
    """X in view 0; the others hear no proposal, and Y is decided in view 1 as if nothing had been."""
    one, other = fork.sides
    x, y = fork.block(2), fork.bench.block(2, 3)
    one.view(0, x, fork.proposal(0, x))
    other.view(0)
    other.view(1, y, fork.proposal(1, y))


def by_a_new_lock(fork: Fork) -> None:
    """X in view 0. Y is prepared in view 1 and decided in view 2 with a certificate that is newer than X: only view 1 is to blame."""
    one, other = fork.sides
    x, y = fork.block(2), fork.bench.block(2, 3)
    one.view(0, x, fork.proposal(0, x))
    other.view(0)
    other.view(1, y, fork.proposal(1, y), ends=False)
    other.view(2, y, fork.proposal(2, y, prepared=1) if 3 in fork.traitors else None)


def by_an_old_lock(fork: Fork) -> None:
    """Y is prepared in view 0, X decided in view 1, and then Y again with its old certificate."""
    one, other = fork.sides
    y, x = fork.block(2), fork.bench.block(2, 3)
    other.view(0, y, fork.proposal(0, y), ends=False)
    one.view(0)
    one.view(1, x, fork.proposal(1, x))
    other.view(1)
    other.view(2, y, fork.proposal(2, y, prepared=0) if 3 in fork.traitors else None)


def blame(fork: Fork, only: set[str] | None) -> None:
    """f+1 culprits at least, and no honest one: for whoever puts together what honest nodes heard, and by the engines themselves."""
    assert fork.forked()
    traitors = {key(i) for i in fork.traitors}
    named = fork.heard.culprits()
    assert len(named) >= fork.f + 1 and named <= traitors
    fork.exchange()
    for side in fork.sides:
        honest = {i for i in side.engines if i in fork.honest}
        assert honest <= side.forked
        reported = {evidence.author for evidence in side.reported}
        assert len(reported) >= fork.f + 1 and reported <= traitors
        for evidence in side.reported:
            assert check_evidence(evidence, chain_id=CHAIN_ID, verify=fork.bench.signatures.verify) is None
            assert evidence_problem(evidence, fork.state.membership, height=1) is None
    assert only is None or fork.kinds() == only


@pytest.mark.parametrize(("nodes", "byzantine"), SIZES)
@pytest.mark.parametrize("view", [0, 1])
def test_a_fork_in_one_view(nodes: int, byzantine: int, view: int) -> None:
    fork = Fork(nodes, byzantine)
    same_view(fork, view)
    blame(fork, {"double_prepare", "double_commit"})


@pytest.mark.parametrize(("nodes", "byzantine"), SIZES)
@pytest.mark.parametrize("script", [across_views, by_a_new_lock, by_an_old_lock])
def test_a_fork_across_views_is_amnesia(nodes: int, byzantine: int, script) -> None:
    """The traitors sign no slot twice, so that nothing else convicts them."""
    fork = Fork(nodes, byzantine)
    script(fork)
    blame(fork, {"amnesia"})


@pytest.mark.parametrize(("nodes", "byzantine"), SIZES)
def test_a_fork_by_twins(nodes: int, byzantine: int) -> None:
    """Every traitor runs two honest engines with one key; what makes the fork is only that each half hears one of them."""
    fork = Fork(nodes, byzantine, twins=True)
    for side in fork.sides:
        side.view(0)
    blame(fork, None)
    assert {"double_prepare", "double_commit"} <= fork.kinds()


def test_a_fork_is_said_once_and_shows_everything() -> None:
    fork = Fork(4, 2)
    by_an_old_lock(fork)
    (engine,) = [engine for i, engine in fork.sides[0].engines.items()]
    decision = next(iter(fork.sides[1].decided.values())).certificate
    effects = engine.step(CertificateReceived(decision))
    assert [(e.height, e.certificate) for e in effects if isinstance(e, Forked)] == [(1, decision)]
    shown = [e.certificate for e in effects if isinstance(e, BroadcastCertificate)]
    assert {(type(c).__name__, c.view) for c in shown} == {
        ("PrepareCertificate", 1),
        ("CommitCertificate", 1),
        ("CommitCertificate", 2),
    }
    assert not any(isinstance(e, Forked) for e in engine.step(CertificateReceived(decision)))


@pytest.mark.parametrize(("nodes", "byzantine"), SIZES)
@pytest.mark.parametrize("script", [across_views, by_a_new_lock, by_an_old_lock])
def test_a_fork_is_explained_after_both_sides_have_gone_on(nodes: int, byzantine: int, script) -> None:
    fork = Fork(nodes, byzantine)
    script(fork)
    assert fork.forked()
    for side in fork.sides:
        decision = next(iter(side.decided.values()))
        state = fork.state.after(decision.block, decision.certificate)
        voters = [*(i for i in side.engines if i in fork.honest), *fork.traitors]
        for _ in range(3):
            block = fork.bench.block_on(state)
            state = state.after(block, fork.bench.committed(0, block, sorted(voters)))
        side.everybody(Synced(state))
        side.shown = [decision.certificate]
    fork.exchange(greet=False)
    for side in fork.sides:
        assert side.forked == set(side.engines)
        named = {evidence.author for evidence in side.reported}
        assert len(named) >= fork.f + 1 and named <= {key(i) for i in fork.traitors}
    assert fork.kinds() == {"amnesia"}


def test_a_fork_of_the_past_is_noticed_and_names_whoever_signed_both_in_one_view() -> None:
    bench = Bench()
    ours, theirs = bench.block(1, 2), bench.block(1, 3)
    state = bench.state.after(ours, bench.committed(0, ours, (0, 1, 2)))
    bench.step(Begin(), Synced(state))
    following = bench.block_on(state)
    bench.step(Synced(state.after(following, bench.committed(0, following, (0, 1, 2)))))
    effects = bench.step(CertificateReceived(bench.committed(0, theirs, (1, 2, 3))))
    assert [e.height for e in effects if isinstance(e, Forked)] == [1]
    accused = {(e.evidence.author, str(e.evidence.kind)) for e in effects if isinstance(e, ReportEvidence)}
    assert accused == {(key(1), "double_commit"), (key(2), "double_commit")}
    for harmless in (bench.committed(0, ours, (1, 2, 3)), bench.committed(0, theirs, (1, 2))):
        assert not any(isinstance(e, Forked) for e in bench.step(CertificateReceived(harmless)))


# -- no honest node is ever in evidence --


def signed_in(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[bytes, int], dict[bytes, Signature]]:
    """By author and height, whatever honest nodes say in the scenarios that follow."""
    said: dict[tuple[bytes, int], dict[bytes, Signature]] = {}
    keep = witness.Witness.said

    def listen(self: witness.Witness, author: PublicKey, message: Message, **more: object) -> None:
        said.setdefault((author, message.height), {})[message.statement(CHAIN_ID)] = message.signature
        keep(self, author, message, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(witness.Witness, "said", listen)
    return said


@pytest.mark.parametrize(("nodes", "byzantine"), [(4, 1), (4, 2), (5, 1), (7, 2), (7, 4)])
def test_nothing_that_honest_nodes_sign_is_evidence(
    nodes: int, byzantine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the traitors do, also too many of them: of a scenario's honest statements no one and no two are an offence.

    Key swaps as well: one honest node's statement beside another's, under either key.
    """
    said = signed_in(monkeypatch)
    pairs = 0
    for seed in range(40):
        said.clear()
        scenario = lockstep.run(seed, nodes=nodes, byzantine=byzantine)
        state = scenario.witness.states[0]
        for (author, height), held in said.items():
            if height == 1:
                for signed in chain(combinations(held.items(), 1), combinations(held.items(), 2)):
                    pairs += 1
                    assert possible(PublicKey(author), *signed, state=state) == []
        swapped(said, state, lockstep.SIGNATURES.verify)
    assert pairs > 1000


def swapped(said: dict[tuple[bytes, int], dict[bytes, Signature]], state: ChainState, verify: Verify) -> None:
    authors = sorted(author for author, height in said if height == 1)
    for mine, theirs in combinations(authors, 2):
        for one in list(said[mine, 1].items())[-6:]:
            for other in list(said[theirs, 1].items())[-6:]:
                for author in (mine, theirs):
                    assert possible(PublicKey(author), one, other, state=state, verify=verify) == []


def test_an_honest_node_that_dies_at_every_effect_signs_no_evidence() -> None:
    """The lock survives: a COMMIT of one life and a PREPARE of the next are no amnesia."""
    bench = Bench()
    bench.begin()
    block, other = bench.block(1, 1), bench.block(2, 2)
    bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.prepare(2, 0, block))
    for last in range(len(bench.records) + 1):
        again = Bench(records=bench.records[:last])
        again.signatures = bench.signatures
        again.boot(0, again.records)
        heard = Heard(bench.state)
        effects = again.begin()
        certificate = bench.view_ends(0, (1, 2, 3))
        effects += again.accept(CertificateReceived(certificate), bench.proposal(2, 1, other))
        for effect in effects:
            if isinstance(effect, Broadcast):
                heard.add(effect.message)
        for record in again.records:
            if record.kind == RecordKind.VOTE:
                heard.add(content_of(record, chain_id=CHAIN_ID))  # type: ignore[arg-type]
        assert [evidence for evidence in heard.evidence() if evidence.author == key(0)] == []
