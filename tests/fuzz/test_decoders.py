"""Fuzzing: whatever bytes come, a decoder gives a value or its declared error, soon and in little memory.

Quick: a few thousand mutants of true inputs for each decoder, and everything in corpus/. `--long`: a million each, some twelve minutes of
one core. `pytest tests/fuzz -s` prints what was reached, and the slowest input; so does `-n 2 -rP`, which spreads the targets over two cores.
"""

import sys
import time
import tracemalloc
from types import FrameType

import pytest

from consensus.encoding import Kind as StatementKind
from p2pnode.wire import FrameKind, Method
from tests.fuzz.decoders import FRAMES, METHODS, STATEMENTS, targets
from tests.fuzz.mutation import Escaped, Target, attempt, fuzz
from transport.framing import Kind

QUICK_INPUTS = 2_000
LONG_INPUTS = 1_000_000
TARGETS = targets()
EVERY = pytest.mark.parametrize("name", TARGETS)


def say(line: str) -> None:
    sys.stdout.write(f"\n{line}")


def report(name: str, inputs: int) -> None:
    target = TARGETS[name]
    began = time.perf_counter()
    found = fuzz(target, inputs=inputs)
    seconds = time.perf_counter() - began
    say(
        f"{name:22} {found.inputs:9,} inputs  {seconds:7.1f} s  {found.taken:8,} taken  {len(found.endings):3} endings  "
        f"slowest {found.slowest_seconds * 1e3:7.2f} ms of {len(found.slowest):6} bytes"
    )


@EVERY
async def test_nothing_but_the_declared_error_comes_out(name: str) -> None:
    report(name, QUICK_INPUTS)


@pytest.mark.long
@EVERY
async def test_nothing_but_the_declared_error_comes_out_of_a_million(name: str) -> None:
    report(name, LONG_INPUTS)


@EVERY
async def test_no_input_costs_much(name: str) -> None:
    """Counted, not timed: calls and bytes in use are the same on every machine. Besides mutants, what decoders of others choked on."""
    target = TARGETS[name]
    found = fuzz(target, inputs=200)
    most_calls = most_bytes = 0.0
    for data in [*target.seeds, *found.endings.values(), *bombs(target)]:
        made, peak = calls(target, data), memory(target, data)
        assert made <= CALLS_MAX + CALLS_PER_BYTE_MAX * len(data), (made, len(data), data[:40])
        assert peak <= MEMORY_BYTES_MAX + MEMORY_PER_BYTE_MAX * len(data), (peak, len(data), data[:40])
        most_calls, most_bytes = max(most_calls, made), max(most_bytes, peak)
    say(f"{name:22} at most {most_calls:8,} calls and {most_bytes / 1024:8,.0f} KiB for one input")


CALLS_MAX, CALLS_PER_BYTE_MAX = 2_000, 10  # a stream of empty frames, and what the target itself does with them
MEMORY_BYTES_MAX, MEMORY_PER_BYTE_MAX = (
    2 << 20,
    30,
)  # two buffers of frames; a JSON document of nothing but [] takes 24 a byte


def bombs(target: Target) -> list[bytes]:
    """As long as may be: nothing but zeros, or ones, or one piece of the language over and over; and behind a true beginning."""
    pieces = [b"\0", b"\xff", b"\x91", b"\x80", *target.tokens, *target.seeds[:1]]
    most = min(target.bytes_max, BOMB_BYTES_MAX)
    filled = [(piece * (most // max(1, len(piece)) + 1))[:most] for piece in pieces if piece]
    return filled + [(seed[: len(seed) // 2] + bomb)[:most] for seed in target.seeds[:1] for bomb in filled[:4]]


BOMB_BYTES_MAX = 128 * 1024  # what grows with the input shows by then


def calls(target: Target, data: bytes) -> int:
    made = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        attempt(target, data)
    finally:
        sys.setprofile(before)
    return made


def memory(target: Target, data: bytes) -> int:
    tracemalloc.start()
    try:
        attempt(target, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@EVERY
async def test_what_is_true_is_taken(name: str) -> None:
    """A target that refuses what it starts from tests nothing. Two statements are never messages of their own."""
    target = TARGETS[name]
    assert any(attempt(target, seed).startswith("a ") for seed in target.seeds) or name == "token"


def test_every_kind_of_frame_statement_and_request_is_fuzzed() -> None:
    """A new kind needs a target, and a line in the tables of decoders.py."""
    assert {kind.name for kind in (*Kind, *FrameKind)} <= set(FRAMES)
    assert {kind.name for kind in StatementKind} | {"LINKS"} == set(STATEMENTS)
    assert {method.name for method in Method} == set(METHODS)
    elsewhere = {"live session"}  # tests/transport/test_hostile.py: what works on more than one frame's bytes
    assert {*FRAMES.values(), *STATEMENTS.values(), *METHODS.values()} <= {*TARGETS} | elsewhere


def test_a_seed_gives_the_same_inputs_again() -> None:
    target = TARGETS["peer record"]
    assert fuzz(target, inputs=300).endings == fuzz(target, inputs=300).endings
    assert fuzz(target, inputs=300).endings != fuzz(target, inputs=300, seed=1).endings


def test_what_escapes_is_found() -> None:
    """The fuzzer fuzzed: a decoder that trusts a length, and one that has two forms for a value."""

    def trusting(data: bytes) -> int:
        if not data:
            raise ValueError
        return data[data[0]]

    with pytest.raises(Escaped, match="IndexError"):
        fuzz(Target("trusting", trusting, (b"\1\2\3",), (ValueError,), bytes_max=10), inputs=100)
    forgiving = Target(
        "forgiving", lambda data: data.rstrip(b"\0"), (b"ab\0",), (), bytes_max=10, again=lambda value: value + b"\0"
    )
    with pytest.raises(Escaped, match="two forms"):
        fuzz(forgiving, inputs=100)
