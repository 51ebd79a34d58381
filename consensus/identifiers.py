"""Names for the byte strings that everything else is made of, and the two functions that a driver lends us.

Nothing here hashes or checks; a `PublicKey` is 32 bytes of an Ed25519 key, whoever holds its private half.
"""

from collections.abc import Callable
from typing import NewType

PublicKey = NewType("PublicKey", bytes)  # 32 bytes, Ed25519
Digest = NewType("Digest", bytes)  # 32 bytes, SHA-256
Signature = NewType("Signature", bytes)  # 64 bytes, Ed25519

NIL = Digest(bytes(32))
"""The vote for "no block in this view". It is a value of its own, never an absent vote."""

Sign = Callable[[bytes], Signature]
Verify = Callable[[PublicKey, bytes, Signature], bool]
"""verify(author, statement, signature): pure, never raises. The same Ed25519 library on every node, for ever."""
