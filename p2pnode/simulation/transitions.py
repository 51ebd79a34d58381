"""The hook for whoever wants to see every step of every honest engine: the proof's refinement test, a debugger, a plot.

`LockStep(..., observer=f)` and `World(..., observer=f)` call `f(Transition)` after each step, in order; without an observer nothing is
computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from consensus import Effect, Engine, Event, PublicKey, Record


@dataclass(frozen=True, slots=True)
class Stand:
    """Where an engine stands: `phase` is idle, propose, prepare or commit; `lock` is (view, block hash)."""

    height: int
    view: int
    phase: str
    lock: tuple[int, bytes] | None


@dataclass(frozen=True, slots=True)
class Transition:
    """One `Engine.step`. `records` is what a restarted engine was given, and None in every step but its first."""

    node: PublicKey
    event: Event
    before: Stand
    effects: tuple[Effect, ...]
    after: Stand
    records: tuple[Record, ...] | None = None


Observer = Callable[[Transition], None]


def stand(engine: Engine) -> Stand:
    return Stand(engine.height, engine.view, engine.phase, engine.lock)


def observed_step(
    observer: Observer, node: PublicKey, engine: Engine, event: Event, *, records: tuple[Record, ...] | None = None
) -> list[Effect]:
    before = stand(engine)
    effects = engine.step(event)
    observer(Transition(node, event, before, tuple(effects), stand(engine), records))
    return effects
