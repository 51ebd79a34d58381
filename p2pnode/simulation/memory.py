"""What an engine holds, counted: invariant I10. A generic walk, so that a container added tomorrow is counted as well.

What it is not: bytes; entries of every dict, set, list and deque that hangs on the engine are counted, each against the bound below.
"""

from collections import deque
from typing import Any

from consensus import ChainState, Engine
from consensus.limits import (
    BLOCKS_PER_HEIGHT_MAX,
    CONTRIBUTIONS_WATCHED_MAX,
    EVIDENCE_PENDING_MAX,
    VERIFIED_SIGNATURES_MAX,
    VIEWS_KEPT_MAX,
)
from consensus.verified import VerifiedSignatures

_BORROWED = (ChainState, VerifiedSignatures, tuple, bytes, str, int, float, frozenset)


def memory_problem(engine: Engine, *, nodes: int) -> str | None:
    """The first container that is larger than any honest reason allows, or None."""
    entries_max = max(
        CONTRIBUTIONS_WATCHED_MAX, EVIDENCE_PENDING_MAX, 2 * VIEWS_KEPT_MAX, 2 * BLOCKS_PER_HEIGHT_MAX, 16 * nodes
    )
    total = 0
    for path, size in containers(engine):
        if size > entries_max:
            return f"{path} holds {size} entries"
        total += size
    total_max = VIEWS_KEPT_MAX * (10 + 10 * nodes) + 40 * BLOCKS_PER_HEIGHT_MAX + 200 * nodes + 2000
    if total > total_max:
        return f"the engine holds {total} entries, at most {total_max} were expected"
    verified = engine._verify
    if len(verified._young) + len(verified._old) > VERIFIED_SIGNATURES_MAX:
        return f"{len(verified._young) + len(verified._old)} signatures remembered"
    return None


def containers(engine: Engine) -> list[tuple[str, int]]:
    """(path, entries) of every container that the engine holds, shared parts once."""
    found: list[tuple[str, int]] = []
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("engine", engine)]
    while todo:
        path, thing = todo.pop()
        if id(thing) in seen or isinstance(thing, _BORROWED) or thing is None or callable(thing):
            continue
        seen.add(id(thing))
        match thing:
            case dict():
                found.append((path, len(thing)))
                todo += [(f"{path}[]", value) for value in thing.values()]
            case list() | set() | deque():
                found.append((path, len(thing)))
                todo += [(f"{path}[]", value) for value in thing]
            case _ if type(thing).__module__.startswith("consensus"):
                todo += [(f"{path}.{name}", value) for name, value in _fields(thing)]
    return found


def _fields(thing: Any) -> list[tuple[str, Any]]:
    named = {name: getattr(thing, name) for name in getattr(type(thing), "__slots__", ()) if hasattr(thing, name)}
    named.update(getattr(thing, "__dict__", {}))
    return list(named.items())
