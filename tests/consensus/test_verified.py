"""consensus.verified: a memory that never says yes to what was not verified, and does not grow."""

from consensus import PublicKey, Signature
from consensus.limits import VERIFIED_SIGNATURES_MAX
from consensus.verified import VerifiedSignatures
from p2pnode.simulation.keys import IssuedSignatures, key

ME = key(1)


class Counting:
    def __init__(self) -> None:
        self.signatures = IssuedSignatures()
        self.asked = 0

    def __call__(self, author: PublicKey, statement: bytes, signature: Signature) -> bool:
        self.asked += 1
        return self.signatures.verify(author, statement, signature)


def test_a_good_signature_is_verified_once_and_a_bad_one_every_time() -> None:
    slow = Counting()
    quick, good = VerifiedSignatures(slow), slow.signatures.signer(ME)(b"statement")
    assert quick(ME, b"statement", good) and quick(ME, b"statement", good)
    assert slow.asked == 1
    for _ in range(2):
        assert not quick(ME, b"another", good) and not quick(key(2), b"statement", good)
    assert slow.asked == 5


def test_what_somebody_vouched_for_is_not_verified_again() -> None:
    slow = Counting()
    quick = VerifiedSignatures(slow)
    quick.remember(ME, b"statement", Signature(b"s"))
    assert quick(ME, b"statement", Signature(b"s")) and slow.asked == 0
    assert not quick(ME, b"statement", Signature(b"t"))


def test_the_memory_is_bounded_and_keeps_what_is_used() -> None:
    slow = Counting()
    quick = VerifiedSignatures(slow)
    quick.remember(ME, b"used", Signature(b"s"))
    for i in range(3 * VERIFIED_SIGNATURES_MAX):
        quick.remember(ME, b"%d" % i, Signature(b"s"))
        if i % 1000 == 0:
            assert quick(ME, b"used", Signature(b"s"))
    assert len(quick._young) + len(quick._old) <= VERIFIED_SIGNATURES_MAX
    assert slow.asked == 0
    assert not quick(ME, b"0", Signature(b"s"))
