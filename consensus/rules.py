"""What the genesis says about members, quorums and contributions: constants of a network, the same on every node for ever.

Not here: what follows from them (advance.py). For editing: a field is protocol, and stands in the genesis document as well.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from consensus.committee import is_threshold
from consensus.identifiers import PublicKey
from consensus.limits import MEMBERS_MAX, PERMITTED_MAX

Admission = Literal["open", "invite", "allowlist"]


@dataclass(frozen=True, slots=True)
class Rules:
    """`allowlist`: who may become a member under that admission, strictly ascending. `codec`: the one that payloads are in."""

    admission: Admission = "open"
    probation_contributions: int = 3
    members_max: int = 64
    threshold_percent: int = 0
    allowlist: tuple[PublicKey, ...] = ()
    codec: int = 1

    def __post_init__(self) -> None:
        if self.admission not in get_args(Admission):
            raise ValueError(f"admission policy {self.admission!r}")
        if self.probation_contributions < 1 or not 1 <= self.members_max <= MEMBERS_MAX:
            raise ValueError("probation_contributions is at least 1, members_max between 1 and MEMBERS_MAX")
        if not is_threshold(self.threshold_percent):
            raise ValueError("threshold_percent is 0, or from 67 to 100")
        if self.allowlist and self.admission != "allowlist":
            raise ValueError(f"an allowlist under the admission policy {self.admission!r}")
        if len(self.allowlist) > PERMITTED_MAX or any(a >= b for a, b in pairwise(self.allowlist)):
            raise ValueError(f"an allowlist is strictly ascending, at most {PERMITTED_MAX} keys")
        if any(len(key) != 32 for key in self.allowlist) or not 0 <= self.codec < 2**16:
            raise ValueError("a key is 32 bytes, a codec an unsigned number of 16 bits")
