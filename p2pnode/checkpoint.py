"""A block that an operator knows to be the right one: ``HEIGHT:HASH``, as ``p2pnode status`` prints it on any node that has it.

Keys of members who have left can sign another past, and it verifies: to a joiner it looks like the chain. A checkpoint tells them apart.
It comes from a person, never from a peer. Pure; who compares it with a chain is ``blocksync`` (peers) and ``catchup`` (our own disk).
"""

import re
from dataclasses import dataclass

from p2pnode.errors import SetUpError

_FORM = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The chain is the one whose block at ``height`` has this hash."""

    height: int
    block_hash: bytes

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Raises ValueError saying what is wrong."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError("not HEIGHT:HASH")
        if int(match[1]) < 1:
            raise ValueError("the first block has height 1")
        return cls(int(match[1]), bytes.fromhex(match[2]))

    def __str__(self) -> str:
        return f"{self.height}:{self.block_hash.hex()}"

    def contradicts(self, height: int, block_hash: bytes) -> bool:
        """Whether a chain with this block is another one."""
        return height == self.height and block_hash != self.block_hash


class WrongHistory(SetUpError):
    """A chain that holds together and is not the one of the checkpoint. Both hashes are shown whole: somebody has to compare them."""

    def __init__(self, checkpoint: Checkpoint, found: bytes, *, where: str, hint: str) -> None:
        super().__init__(
            f"block {checkpoint.height} {where} is {found.hex()}, the checkpoint says {checkpoint.block_hash.hex()}",
            hint,
        )
