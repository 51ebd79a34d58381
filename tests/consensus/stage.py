"""A stage for protocol runs that a person can read: commands in, one line per effect out (tests/consensus/scenarios/*.txt).

Nothing happens by itself: a message waits until the script delivers or drops it, a timer until the script fires it. Blocks are
named by letters in the order in which they appear. The commands are the methods whose names begin with `do_`.
"""

from collections.abc import Iterator
from dataclasses import replace

from consensus import (
    NIL,
    Begin,
    Behind,
    Block,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    BlockTemplate,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
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
    EvidenceReceived,
    FetchBlock,
    Forked,
    HeightWanted,
    KeyElsewhere,
    Leave,
    MessageReceived,
    Persist,
    Prepare,
    PrepareCertificate,
    Proposal,
    Record,
    Refused,
    ReportEvidence,
    ReportRequest,
    Rules,
    SetTimer,
    StartHeight,
    Synced,
    Timer,
    TimerFired,
    TimerKind,
    ViewStatus,
)
from consensus.record import content_of
from p2pnode.simulation.keys import IssuedSignatures, key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution, genesis, root_is_right
from p2pnode.simulation.process import Shameless


class Actor:
    """One node: an engine and what it wrote down."""

    def __init__(self, state: ChainState) -> None:
        self.engine: Engine | None = None
        self.state = state
        self.log: list[Record] = []
        self.chain: list[Decide] = []
        self.timers: dict[TimerKind, Timer] = {}


class Stage:
    def __init__(self) -> None:
        self.signatures = IssuedSignatures()
        self.actors: list[Actor] = []
        self.mail: list[tuple[int, int, object]] = []  # (from, to, message or certificate), oldest first
        self.letters: dict[bytes, str] = {NIL: "NIL"}
        self.blocks: dict[str, Block] = {}
        self.walls: list[set[int]] = []
        self.contributors: list[int] = []
        self.traitor: int | None = None
        self.lines: list[str] = []

    def command(self, line: str) -> str:
        """Carry out one line of a script; gives what happened."""
        self.lines = []
        name, *words = line.split()
        getattr(self, f"do_{name}")(*words)
        return "\n".join(self.lines) or "(nothing)"

    # -- commands --

    def do_nodes(self, count: str, *options: str) -> None:
        """nodes 4 [founders 1] [probation 3] [traitor 2]: all contribute; those that are no founders observe until they are admitted.

        What is forged in a traitor's name does not make it silent.
        """
        given = dict(zip(options[::2], map(int, options[1::2]), strict=True))
        rules = Rules(probation_contributions=given.get("probation", 3))
        state = genesis(given.get("founders", int(count)), rules)
        self.traitor = given.get("traitor")
        self.actors = [Actor(state) for _ in range(int(count))]
        self.contributors = list(range(int(count)))
        for i in range(int(count)):
            self._boot(i)
        self._say_proposer(state)

    def do_start(self, *who: str) -> None:
        """start [n0 ...]: begin the next height."""
        for i in self._indices(who):
            self._step(i, StartHeight(self.actors[i].state.height + 1))

    def do_deliver(self, *words: str) -> None:
        """deliver [PREPARE ...] [from n0 ...] [to n1 ...]: what waits now and matches; what it leads to waits."""
        for item in self._picked(words):
            self.mail.remove(item)
            self._receive(*item)

    def do_drop(self, *words: str) -> None:
        """drop [PREPARE ...] [from n0 ...] [to n1 ...]: lost for ever."""
        picked = self._picked(words)
        self.mail = [item for item in self.mail if item not in picked]
        self.lines.append(f"{len(picked)} lost")

    def do_run(self, *words: str) -> None:
        """run [PREPARE ...] [from ...] [to ...]: deliver until nothing that matches is left."""
        while picked := self._picked(words):
            self.mail.remove(picked[0])
            self._receive(*picked[0])

    def do_fire(self, kind: str, *who: str) -> None:
        """fire propose [n0 ...]: the last armed timer of this kind goes off."""
        for i in self._indices(who):
            timer = self.actors[i].timers.pop(TimerKind(kind), None)
            if timer is not None:
                self._step(i, TimerFired(timer))

    def do_crash(self, *who: str) -> None:
        for i in self._indices(who):
            self.actors[i].engine = None
            self.actors[i].timers = {}
            self.mail = [item for item in self.mail if item[1] != i]
            self.lines.append(
                f"n{i} is gone; its log holds {', '.join(map(self._record, self.actors[i].log)) or 'nothing'}"
            )

    def do_restart(self, *who: str) -> None:
        for i in self._indices(who):
            self._boot(i)

    def do_split(self, *words: str) -> None:
        """split n0 n1 | n2 n3: nothing passes between the groups; what was on its way is lost."""
        groups = " ".join(words).split("|")
        self.walls = [{int(word[1:]) for word in group.split()} for group in groups]
        self.mail = [(a, b, m) for a, b, m in self.mail if self._connected(a, b)]

    def do_heal(self) -> None:
        self.walls = []

    def do_forge(self, who: str, kind: str, slot: str, *words: str) -> None:
        """forge n0 prepare 1/0 A [valid 0] to n1: signed by n0, whatever its engine thinks. A letter not yet used is a new block."""
        i, (height, view) = int(who[1:]), (int(n) for n in slot.split("/"))
        letter, *rest = words
        valid = int(rest[rest.index("valid") + 1]) if "valid" in rest else -1
        block_hash = NIL if letter == "NIL" else self._block(i, letter).hash
        statement: Proposal | Prepare | Commit
        if kind == "prepare":
            statement = Prepare(key(i), height, view, block_hash, valid, b"")
        elif kind == "commit":
            statement = Commit(key(i), height, view, block_hash, b"")
        else:
            statement = Proposal(key(i), height, view, self.blocks[letter], None, b"")
        signed = self._signed(i, statement)
        for target in self._indices(rest[rest.index("to") + 1 :]):
            self.mail.append((i, target, signed))
            self.lines.append(f"n{i} -> n{target} {self._name(signed)}")

    def do_leave(self, who: str) -> None:
        """leave n3: its operator asks it to."""
        i = int(who[1:])
        unsigned = Leave(key(i), self.actors[i].state.height + 1, b"")
        signature = self.signatures.signer(key(i))(unsigned.statement(CHAIN_ID))
        self._step(i, MessageReceived(replace(unsigned, signature=signature)))

    def do_contribute(self, *who: str) -> None:
        """contribute n0 n1: who contributes from now on."""
        self.contributors = self._indices(who)

    def do_sync(self, who: str, _from: str, source: str) -> None:
        """sync n3 from n0: block sync, as the driver does it."""
        i, actor, chain = int(who[1:]), self.actors[int(who[1:])], self.actors[int(source[1:])].chain
        for decided in chain[actor.state.height :]:
            actor.state = actor.state.after(decided.block, decided.certificate)
            actor.chain.append(decided)
        self._step(i, Synced(actor.state))

    def do_status(self, *who: str) -> None:
        for i in self._indices(who):
            engine = self.actors[i].engine
            if engine is None:
                self.lines.append(f"n{i} down")
                continue
            lock = (
                "unlocked"
                if engine.lock is None
                else f"locked on {self.letters[engine.lock[1]]} in view {engine.lock[0]}"
            )
            decided = " ".join(f"{d.block.height}:{self.letters[d.block.hash]}" for d in self.actors[i].chain[-4:])
            self.lines.append(
                f"n{i} {engine.height}/{engine.view} {engine.phase}, {lock}; decided {decided or 'nothing'}"
            )

    def do_committee(self) -> None:
        """committee: who votes at the next heights, according to whoever is furthest."""
        state = max((actor.state for actor in self.actors), key=lambda s: s.height)
        members = {key(i): f"n{i}" for i in range(len(self.actors))}
        for height, committee in ((1, state.membership.current), (2, state.membership.next)):
            names = " ".join(members[m] for m in committee.members)
            self.lines.append(f"height {state.height + height}: {names} (quorum {committee.quorum()})")

    # -- engines --

    def _boot(self, i: int) -> None:
        actor = self.actors[i]
        records = [Record.decode(record.encode()) for record in actor.log]
        actor.engine = (Shameless if i == self.traitor else Engine)(
            me=key(i),
            sign=self.signatures.signer(key(i)),
            verify=self.signatures.verify,
            state=actor.state,
            records=records,
        )
        self._step(i, Begin())

    def _step(self, i: int, event: Event) -> None:
        answers = [event]
        while answers and (engine := self.actors[i].engine) is not None:
            for effect in engine.step(answers.pop(0)):
                answers += self._carry_out(i, effect)

    def _carry_out(self, i: int, effect: Effect) -> Iterator[Event]:
        actor = self.actors[i]
        match effect:
            case Persist(record):
                actor.log.append(record)
                self._note(i, f"logs {self._record(record)}")
            case Broadcast(message):
                self._note(i, f"says {self._name(message)}")
                self._post(i, message)
            case BroadcastCertificate(certificate):
                self._note(i, f"shows {self._name(certificate)}")
                self._post(i, certificate)
            case SetTimer(timer, seconds):
                actor.timers[timer.kind] = timer
                if timer.kind != TimerKind.REBROADCAST:
                    self._note(i, f"waits {seconds:.2f} s to end {timer.kind} of view {timer.view}")
            case BuildBlock():
                offered = [contribution(self.signatures, c, effect.template.state) for c in self.contributors]
                block = block_on(effect.template, offered)
                self._note(i, f"builds {self._letter(block)}")
                yield BlockBuilt(effect.height, effect.view, block)
            case CheckBlock(block):
                self._note(i, f"checks {self._letter(block)}")
                yield BlockChecked(block.hash, root_is_right(block))
            case FetchBlock():
                name = self.letters[effect.block_hash]
                holders = " ".join(f"n{j}" for j in range(len(self.actors)) if key(j) in effect.holders)
                self._note(i, f"fetches {name} from {holders}")
                yield BlockReceived(self.blocks[name])
            case Decide(block, certificate):
                actor.chain.append(effect)
                actor.state = actor.state.after(block, certificate)
                actor.log = [record for record in actor.log if record.height > block.height]
                self._note(i, f"DECIDES {self._name(certificate)}{self._evidence_in(block)}")
            case HeightWanted(height):
                self._note(i, f"wants height {height}")
            case Behind(height):
                self._note(i, f"is behind height {height}")
            case ReportEvidence(evidence):
                self._note(i, f"has {self._name(evidence)}")
                self._post(i, evidence)
            case ReportRequest(request):
                self._note(i, f"passes on {self._name(request)}")
                self._post(i, request)
            case KeyElsewhere(reason):
                self._note(i, f"falls silent: {reason}")
            case Forked(_, certificate):
                self._note(i, f"sees a FORK: {self._name(certificate)}")
            case Refused(_, reason):
                self._note(i, f"refuses {reason}")

    # -- parts --

    def _receive(self, source: int, target: int, thing: object) -> None:
        if isinstance(thing, Evidence):
            self._step(target, EvidenceReceived(thing))
        elif isinstance(thing, PrepareCertificate | CommitCertificate) or not hasattr(thing, "author"):
            self._step(target, CertificateReceived(thing))  # type: ignore[arg-type]
        else:
            self._step(target, MessageReceived(thing))  # type: ignore[arg-type]

    def _post(self, source: int, thing: object) -> None:
        for target, actor in enumerate(self.actors):
            if target != source and actor.engine is not None and self._connected(source, target):
                self.mail.append((source, target, thing))

    def _connected(self, a: int, b: int) -> bool:
        return not self.walls or any(a in group and b in group for group in self.walls)

    def _picked(self, words: tuple[str, ...]) -> list[tuple[int, int, object]]:
        """The waiting messages of these kinds, authors and receivers; of all, where none are named."""
        wanted: dict[str, list[str]] = {"kind": [], "from": [], "to": []}
        field = "kind"
        for word in words:
            if word in wanted:
                field = word
            else:
                wanted[field].append(word)
        kinds, sources, targets = wanted.values()
        return [
            (a, b, m)
            for a, b, m in self.mail
            if (not kinds or self._name(m).split()[0] in kinds)
            and (not sources or f"n{a}" in sources)
            and (not targets or f"n{b}" in targets)
        ]

    def _indices(self, words: tuple[str, ...] | list[str]) -> list[int]:
        return [int(word[1:]) for word in words if word != "all"] or list(range(len(self.actors)))

    def _index(self, author: bytes) -> int:
        return next(i for i in range(len(self.actors)) if key(i) == author)

    def _block(self, i: int, letter: str) -> Block:
        if letter not in self.blocks:
            template = BlockTemplate(self.actors[i].state, key(i))
            lone = contribution(self.signatures, len(self.blocks) % len(self.actors), self.actors[i].state)
            self._letter(block_on(template, [lone]), letter)
        return self.blocks[letter]

    def _letter(self, block: Block, letter: str | None = None) -> str:
        if block.hash not in self.letters:
            name = letter or next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in self.blocks)
            self.letters[block.hash] = name
            self.blocks[name] = block
        return self.letters[block.hash]

    def _signed(self, i: int, statement: Proposal | Prepare | Commit) -> Proposal | Prepare | Commit:
        signature = self.signatures.signer(key(i))(statement.statement(CHAIN_ID))
        return replace(statement, signature=signature)

    def _note(self, i: int, text: str) -> None:
        self.lines.append(f"n{i} {text}")

    def _say_proposer(self, state: ChainState) -> None:
        committee = state.membership.current
        first = self._index(committee.proposer(1, 0))
        self.lines.append(f"committee of {len(committee)}, quorum {committee.quorum()}, n{first} proposes 1/0")

    def _evidence_in(self, block: Block) -> str:
        proven = "".join(f", with proof of {e.kind} by n{self._index(e.author)}" for e in block.evidence)
        return proven + "".join(f", with {self._name(request)}" for request in block.requests)

    def _record(self, record: Record) -> str:
        content = content_of(record, chain_id=CHAIN_ID)
        return f"block {self._letter(content)}" if isinstance(content, Block) else self._name(content)

    def _name(self, thing: object) -> str:
        match thing:
            case Proposal():
                why = f" (prepared in view {thing.valid_view})" if thing.certificate else ""
                return f"PROPOSAL {thing.height}/{thing.view} {self._letter(thing.block)}{why}"
            case Prepare():
                why = f" (prepared in view {thing.valid_view})" if thing.valid_view >= 0 else ""
                return f"PREPARE {thing.height}/{thing.view} {self.letters[thing.block_hash]}{why}"
            case Commit():
                return f"COMMIT {thing.height}/{thing.view} {self.letters[thing.block_hash]}"
            case ViewStatus():
                shown = thing.prepared
                what = "nothing" if shown is None else f"{self.letters[shown.block_hash]} in view {shown.view}"
                return f"STATUS {thing.height}/{thing.view} prepared {what}"
            case Leave():
                return f"LEAVE of n{self._index(thing.author)}"
            case Evidence():
                return f"PROOF of {thing.kind} by n{self._index(thing.author)} in {thing.height}/{thing.view}"
            case PrepareCertificate():
                return (
                    f"PREPARED {thing.height}/{thing.view} {self.letters[thing.block_hash]} by {self._signers(thing)}"
                )
            case CommitCertificate():
                return (
                    f"COMMITTED {thing.height}/{thing.view} {self.letters[thing.block_hash]} by {self._signers(thing)}"
                )
        return f"VIEW-ENDS {thing.height}/{thing.view} by {self._signers(thing)}"  # type: ignore[attr-defined]

    def _signers(self, certificate: object) -> str:
        return " ".join(f"n{self._index(author)}" for author in certificate.authors())  # type: ignore[attr-defined]
