"""What the fuzzing targets begin with: two identities, a network, and the inputs that are kept in corpus/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transport
from p2pnode.simulation.ledger import CHAIN_ID
from tests.fuzz.mutation import Target
from tests.p2pnode.little import identities
from transport import content
from transport import statement as st
from transport.address import Address

CORPUS = Path(__file__).parent / "corpus"
CHAIN = st.ChainId(CHAIN_ID)
HERE = Address("127.0.0.1", 7337)
ALICE, BOB = identities(2)
BLOB = bytes(range(256)) * 520  # two leaves and a part
LEAVES = content.split(BLOB)
HASHES = content.leaf_hashes(LEAVES)
DIGEST = content.digest_of(BLOB)


def corpus(name: str) -> tuple[bytes, ...]:
    """Inputs that are kept: of bugs that were found, and of places that are hard to reach. A line is hex, and why behind a #."""
    path = CORPUS / f"{name.replace(' ', '_')}.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    kept = (line.partition("#")[0].strip() for line in lines)
    return tuple(bytes.fromhex(line) for line in kept if line)


def target(name: str, decode: Callable[[bytes], object], *seeds: bytes, **how: Any) -> Target:
    how.setdefault("refusals", (transport.Malformed,))
    return Target(name, decode, seeds=(*seeds, *corpus(name)), **how)


def encoded(value: Any) -> bytes:
    return bytes(value.encode())
