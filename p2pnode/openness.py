"""Whether others can dial this node, in the operator's words: one line for ``status``, ``start`` and ``doctor``, and the same as data.

What it is: words for ``transport.Reach``. What it is not: how it is found out (``transport/reachability.py``).

For editors: a "no" says what to do, and that the node takes part all the same: being reachable is a help to others, never a duty.
"""

from collections.abc import Mapping
from typing import Any

from transport import Address, Reach, Result, Scope, Verdict

_FROM = {Scope.LOOPBACK: ", from this machine", Scope.PRIVATE: ", from this local network", Scope.GLOBAL: ""}
_WHY = {
    Result.REFUSED: "nobody listens there",
    Result.TIMED_OUT: "no answer",
    Result.UNREACHABLE: "no way there",
    Result.ANOTHER: "something else answers there",
}


def line(reach: Reach, *, listen: Address | None, announced: Address | None) -> str:
    """``yes (dialed back by 2 peers)``, ``no: open TCP port 7337 ...`` or ``unknown: ...``."""
    match reach.verdict:
        case Verdict.YES:
            tried = reach.peers + reach.failed
            who = _peers(reach.peers) if not reach.failed else f"{reach.peers} of {_peers(tried)}"
            return f"yes{_FROM[reach.scope] if reach.scope is not None else ''} (dialed back by {who})"
        case Verdict.NO:
            at = f" at {reach.address}" if reach.address is not None else ""
            why = f": {_WHY[reach.result]}" if reach.result in _WHY else ""
            return f"no: {advice(reach, listen=listen, announced=announced)} ({_peers(reach.failed)} tried{at}{why})"
        case Verdict.UNKNOWN:
            return f"unknown: {_unknown(reach, announced)}"


def advice(reach: Reach, *, listen: Address | None, announced: Address | None) -> str:
    """What would make it reachable."""
    port = (announced or listen or Address("", 0)).port
    if listen is not None and listen.scope is Scope.LOOPBACK and reach.scope is not Scope.LOOPBACK:
        return f"it listens on {listen.host} only; start with --listen 0.0.0.0:{listen.port}"
    if reach.result is Result.ANOTHER:
        return f"forward TCP port {port} to this machine in the router"
    return f"open TCP port {port} to this machine, in its firewall and in the router"


def facts(reach: Reach, *, listen: Address | None, announced: Address | None) -> Mapping[str, Any]:
    """The same as plain JSON."""
    return {
        "verdict": str(reach.verdict),
        "text": line(reach, listen=listen, announced=announced),
        "peers": reach.peers,
        "failed": reach.failed,
        "address": None if reach.address is None else str(reach.address),
        "scope": None if reach.scope is None else reach.scope.name.lower(),
    }


def _unknown(reach: Reach, announced: Address | None) -> str:
    if reach.asked:
        return f"{_peers(reach.asked)} {'is' if reach.asked == 1 else 'are'} trying"
    if reach.address is not None and announced is not None:
        return f"peers see this node at {reach.address.host}, and not at {announced}, which it announces"
    return "no peer has tried it yet"


def _peers(count: int) -> str:
    return f"{count} peer" if count == 1 else f"{count} peers"
