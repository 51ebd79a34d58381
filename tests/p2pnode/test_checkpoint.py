"""A checkpoint as an operator types it."""

import pytest

from p2pnode.checkpoint import Checkpoint, WrongHistory

HASH = "ab" * 32


def test_what_status_prints_is_what_start_takes():
    point = Checkpoint.parse(f"1200:{HASH}")
    assert point == Checkpoint(1200, bytes.fromhex(HASH)) and Checkpoint.parse(str(point)) == point


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1200",
        HASH,
        f"1200:{HASH[:-1]}",
        f"1200:{HASH}0",
        f"-1:{HASH}",
        f"1:{HASH}:2",
        f"1{'0' * 18}:{HASH}",
        f"{HASH}:1",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="not HEIGHT:HASH"):
        Checkpoint.parse(text)


def test_the_genesis_is_no_block():
    with pytest.raises(ValueError, match="the first block has height 1"):
        Checkpoint.parse(f"0:{HASH}")


def test_it_says_nothing_of_other_heights():
    point = Checkpoint.parse(f"7:{HASH}")
    assert point.contradicts(7, bytes(32))
    assert not point.contradicts(7, bytes.fromhex(HASH)) and not point.contradicts(8, bytes(32))


def test_both_hashes_are_shown():
    error = WrongHistory(Checkpoint.parse(f"7:{HASH}"), bytes(32), where="of this home's chain", hint="do")
    assert error.message == f"block 7 of this home's chain is {bytes(32).hex()}, the checkpoint says {HASH}"
