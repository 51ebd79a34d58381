"""The three kinds of fault, and the two refusals that a caller of the swarm can meet.

Not here: how a fault is answered (connection.py and swarm.py close, log and ban).
Rule for editing: a kind says who is at fault; a new way of failing is a new reason, not a new class.
"""

from __future__ import annotations


class LocalFault(Exception):
    """We broke one of our own rules. Never caused by remote input; must be loud."""


class RemoteFault(Exception):
    """A peer broke a rule. Ends its connection, never ours and never another peer's.

    `peer` names it for the log (short node id or address), `proven` says that a signature or a digest
    proves the fault, which is the only ground for a ban.
    """

    def __init__(self, peer: str, reason: str, *, proven: bool = False) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason
        self.proven = proven


class UserError(Exception):
    """Something that only the operator can put right: one line and a hint, no traceback."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Malformed(Exception):
    """Bytes that do not decode. Raised by the sans-IO decoders, which know no peer."""


class RequestFailed(Exception):
    """A request or a fetch came to nothing; `reason` is fit for one log line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RequestRefused(Exception):
    """Raised by a request handler to say no; the peer is told `reason` and nothing is logged as an error."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
