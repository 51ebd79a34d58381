"""The adversaries by name: what each does in one line, its number in the protocol's list, and which level plays it.

What they do stands in lies.py (votes and proposals) and noise.py (certificates, floods, false answers); those of the connections are
the transport's tests. `expand` turns what a user typed into behaviours.
"""

from dataclasses import dataclass

from p2pnode.errors import ExitCode, UserError


@dataclass(frozen=True, slots=True)
class Adversary:
    """`numbers` in the list of adversaries; `role`: a traitor's "behaviour", a "fault" of honest nodes, or "transport"."""

    name: str
    numbers: tuple[int, ...]
    line: str
    role: str = "behaviour"


ADVERSARIES = {
    a.name: a
    for a in (
        Adversary("twin", (1,), "two engines with one key, each facing half of the nodes", "twin"),
        Adversary("equivocating-proposer", (2,), "one proposal to half of the nodes, another to the rest"),
        Adversary("equivocating-prepare", (3,), "one PREPARE to half of the nodes, another to the rest"),
        Adversary("equivocating-commit", (4,), "one COMMIT to half of the nodes, another to the rest"),
        Adversary("forged-valid-view", (5,), "PREPAREs with an invented valid view, for any block"),
        Adversary("unjustified", (6,), "re-proposals with no certificate, or with another block's"),
        Adversary("withhold", (7,), "the vote that completes a quorum reaches one node only: hidden locks"),
        Adversary("late-release", (8,), "old votes, and votes for other values, when the views have moved on"),
        Adversary("amnesia", (9,), "restarts without its log, and prepares whatever is proposed"),
        Adversary("silent-proposer", (10,), "never proposes"),
        Adversary("silent", (10,), "never says anything"),
        Adversary("slow-proposer", (11,), "proposes just before the others give up"),
        Adversary("wrong-aggregate", (12,), "proposes the root of other contributions than those listed"),
        Adversary("wrong-root", (13,), "proposes a root that nobody can reproduce, and votes for it"),
        Adversary("withhold-data", (14,), "lets half of the nodes have the payloads that it lists, the rest not"),
        Adversary("two-payloads", (15,), "one contribution to half of the nodes, another to the rest"),
        Adversary("bad-payload", (16,), "lists a payload that is no numbers: every honest check refuses it"),
        Adversary(
            "bad-certificates", (17,), "certificates with repeated, foreign, badly signed, NIL or missing entries"
        ),
        Adversary("stale-committee", (18,), "certificates filled up by members of an earlier committee"),
        Adversary("replay", (19,), "true messages again, and certificates relabelled for other heights and views"),
        Adversary("flood", (20,), "signed votes for a thousand later views and heights"),
        Adversary("lying-height", (21,), "claims heights that nobody decided, and answers with nothing"),
        Adversary("wrong-block", (22,), "answers a question for a block with another one"),
        Adversary("bad-donor", (23,), "sends a chain whose last block is not the one decided, or stalls there"),
        Adversary("long-range", (24,), "offers another history, signed by the keys that it has"),
        Adversary("lunatic", (25,), "proposes blocks that name another committee"),
        Adversary("framing", (31,), "evidence with a key swapped, a signature swapped, or about nothing, without end"),
        Adversary("clock-skew", (32,), "its timers at any rate; everybody's clocks jump", "behaviour"),
        Adversary("disk", (33,), "torn and lost tails, full disks, fsync errors, a lost log, on honest nodes", "fault"),
        Adversary("links", (34,), "one-way, flapping and clogged links between honest nodes", "fault"),
        Adversary("collusion", (36,), "every traitor does something else at each height, with all that all heard"),
        Adversary(
            "too-many", (37,), "one traitor more than f, equivocating: every fork must name its culprits", "excess"
        ),
        Adversary("removed-voter", (38,), "keeps voting and proposing after it was voted out"),
        Adversary("address-flood", (26,), "peer exchange: floods, rollbacks, our own address", "transport"),
        Adversary("eclipse", (27,), "eclipse at a restart", "transport"),
        Adversary("slot-exhaustion", (28,), "inbound slots, slow handshakes", "transport"),
        Adversary("duplicate-race", (29,), "two connections at once", "transport"),
        Adversary("stolen-certificate", (30,), "another's TLS certificate, another's id", "transport"),
        Adversary("bombs", (35,), "deep or huge msgpack", "transport"),
    )
}

ALIASES = {
    "equivocate": ("equivocating-proposer", "equivocating-prepare", "equivocating-commit"),
    "bad-root": ("wrong-root",),
    "none": (),
}
BEHAVIOURS = tuple(a.name for a in ADVERSARIES.values() if a.role == "behaviour")
PLAYED = tuple(a.name for a in ADVERSARIES.values() if a.role != "transport")
"""What levels 1 and 2 can play."""


def expand(text: str) -> tuple[str, ...]:
    """Names of adversaries from `a,b`; raises UserError for a name that is none or that no simulation plays."""
    names: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        for name in ALIASES.get(word, (word,)):
            found = ADVERSARIES.get(name)
            if found is None:
                hint = "p2pnode simulate --attack help lists them"
                raise UserError(f"no adversary is called {word!r}", hint, exit_code=ExitCode.USAGE)
            if found.role == "transport":
                hint = "tests/transport has it; p2pnode simulate --attack help lists the others"
                raise UserError(f"{word} lives in the connections", hint, exit_code=ExitCode.USAGE)
            if name not in names:
                names.append(name)
    return tuple(names)


def listing() -> str:
    """For `--attack help`: the number in the list, the name, the line."""
    rows = sorted(ADVERSARIES.values(), key=lambda a: a.numbers)
    width = max(len(a.name) for a in rows)
    lines = [
        f"{a.numbers[0]:>2}  {a.name:<{width}}  {a.line}" + (" [transport tests]" if a.role == "transport" else "")
        for a in rows
    ]
    lines += [f"    {alias:<{width}}  {', '.join(names) or 'no traitor'}" for alias, names in ALIASES.items()]
    return "\n".join(lines)
