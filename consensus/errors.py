"""The two ways in which this package says no.

`Malformed` is about bytes that somebody sent: the driver counts it against the sender and goes on. `LocalFault` is about us:
a promise of the driver or of this package was broken, and going on could cost a second signature for one slot. It is never
caught inside the package.
"""


class Malformed(ValueError):
    """Remote bytes or a remote object that breaks the format; `reason` is one line for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LocalFault(RuntimeError):
    """A bug on this side. Stop voting, say so loudly, let an operator look."""
