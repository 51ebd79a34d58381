"""What a local network is asked for, and whether it can be had.

What it is: the options of ``p2pnode localnet`` as one value, checked before anything is started. What it is not: the
options of a node; the nodes get theirs on their own command lines.

For editors: an option needs a reason that a user has; what can be derived is derived here and not asked for.
"""

from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from p2pnode.errors import ExitCode, UserError
from p2pnode.localnet.weather import FAIR, Weather, check_weather

# Every node is a process with its own torch, about 300 MB resident: a laptop's memory ends near here.
NODES_MAX = 32
ROUNDS_MAX = 9_000  # the verdict looks at every round, and one answer of a node holds ten thousand
# One kill needs the victim to come back and catch up before the next: on two busy cores that takes about three rounds
# of `tiny`.
ROUNDS_PER_KILL = 3

CHURN_MIN, CHURN_MAX = 0.1, 20.0  # a newcomer is up after a few seconds at best
CHURN_NODES_MIN = 5  # four remain when one has left, and one of four may be down
MINUTES_MAX = 24 * 60

ATTACKS = ("equivocate", "bad-root", "hollow", "huge", "silent")


@dataclass(frozen=True, slots=True)
class LocalnetOptions:
    """The flags of ``p2pnode localnet``, by their names. ``attack`` stands for every Byzantine node."""

    nodes: int = 4
    rounds: int = 20
    data: tuple[str, ...] = ()
    tokenizer: str | None = None
    size: str = "tiny"
    moe: bool = False
    seed: int = 0
    home: Path | None = None
    json: bool = False
    kill: int = 0
    byzantine: int = 0
    attack: str | None = None
    weather: Weather = FAIR
    churn: float | None = None
    minutes: float | None = None

    @property
    def rounds_max(self) -> int:
        """Where the run ends at the latest: under churn nobody knows before which height that is."""
        return self.rounds if self.churn is None else ROUNDS_MAX

    @property
    def tolerated_faults(self) -> int:
        """f: how many nodes may lie or be away while the others still decide (SPEC.md, Q1)."""
        return (self.nodes - 1) // 3

    @property
    def attack_name(self) -> str | None:
        """The attack that the Byzantine nodes carry out, or None without any."""
        return (self.attack or "equivocate") if self.byzantine else None

    @property
    def byzantine_indices(self) -> tuple[int, ...]:
        """The last nodes are the Byzantine ones: which nodes these are does not matter, keys decide who proposes
        when."""
        return tuple(range(self.nodes - self.byzantine, self.nodes))

    @property
    def honest_indices(self) -> tuple[int, ...]:
        return tuple(range(self.nodes - self.byzantine))

    @property
    def down_max(self) -> int:
        """How many killed nodes may be down at once: what the Byzantine ones leave of f, but at least one, which then
        costs a pause and never safety."""
        return max(1, self.tolerated_faults - self.byzantine)


def check_options(options: LocalnetOptions) -> None:
    """Raise UserError for what cannot work, naming the flag."""
    _check_range("--nodes", options.nodes, low=1, high=NODES_MAX)
    _check_range("--rounds", options.rounds, low=1, high=ROUNDS_MAX)
    _check_range("--kill", options.kill, low=0, high=ROUNDS_MAX)
    _check_range("--byzantine", options.byzantine, low=0, high=options.nodes)
    _check_faults(options)
    check_weather(options.weather, nodes=options.nodes)
    _check_churn(options)
    for name in options.data:
        if not (Path(name).exists() or has_magic(name) or name.partition(":")[0] == "synthetic"):
            raise _refuse(f"--data {name}: no such file", "give a text file")
    if options.home is not None and options.home.exists() and not _is_empty_directory(options.home):
        raise _refuse(f"--home {options.home}: exists and is not an empty directory", "name a new directory")


def _check_faults(options: LocalnetOptions) -> None:
    faults = options.tolerated_faults
    if options.attack is not None and options.attack not in ATTACKS:
        raise _refuse(f"--attack {options.attack}: unknown", f"choose one of {', '.join(ATTACKS)}")
    if options.attack is not None and not options.byzantine:
        raise _refuse("--attack without --byzantine: nobody would carry it out", "add --byzantine 1")
    if options.byzantine > faults:
        raise _refuse(
            f"--byzantine {options.byzantine}: {options.nodes} nodes tolerate {faults}",
            f"--nodes {3 * options.byzantine + 1} or more tolerate {options.byzantine}",
        )
    if options.kill and faults == 0:
        raise _refuse(
            f"--kill {options.kill}: {options.nodes} nodes tolerate no node that is away",
            "--nodes 4 or more tolerate one",
        )
    rounds_needed = ROUNDS_PER_KILL * options.kill
    if options.rounds < rounds_needed:
        raise _refuse(
            f"--kill {options.kill}: {options.rounds} rounds are too few: a victim is back before the next dies",
            f"--rounds {rounds_needed} or more",
        )


def _check_churn(options: LocalnetOptions) -> None:
    if options.churn is None:
        if options.minutes is not None:
            raise _refuse("--minutes without --churn: a run ends at a height", "give --rounds, or add --churn 3")
        return
    if not CHURN_MIN <= options.churn <= CHURN_MAX:
        raise _refuse(
            f"--churn {options.churn:g}: out of range", f"from {CHURN_MIN:g} to {CHURN_MAX:g} changes a minute"
        )
    if options.minutes is not None and not 0 < options.minutes <= MINUTES_MAX:
        raise _refuse(f"--minutes {options.minutes:g}: out of range", f"at most {MINUTES_MAX}")
    if options.nodes - options.byzantine < CHURN_NODES_MIN:
        raise _refuse(
            f"--churn with {options.nodes - options.byzantine} honest nodes: one leaves and one is down at any time",
            f"--nodes {CHURN_NODES_MIN + options.byzantine} or more",
        )
    if options.kill:
        raise _refuse("--kill with --churn: churn kills by itself", "leave --kill out")


def _check_range(flag: str, value: int, *, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _refuse(f"{flag} {value}: out of range", f"from {low} to {high}")


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _refuse(message: str, hint: str) -> UserError:
    return UserError(message, hint, exit_code=ExitCode.USAGE)
