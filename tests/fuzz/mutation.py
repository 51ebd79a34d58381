"""Bytes that are almost right, and more of those that led somewhere new.

What it is: a seeded mutator, and the loop that feeds it. An input that ends in a way that no input before it ended in (another line that
refuses, another type of value, or another short word) becomes one to start from: the refusing lines of a strict decoder are its branches,
so following them is coverage, at the price of looking at a traceback. What it is not: a judge; `Target.run` says what may come out.

For editing: the same seed gives the same inputs, in every process. Nothing here may depend on time or on the order of a set.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

INTERESTING = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 254, 255)
STACKED_MAX = 6  # changes of one input: more leave nothing of a seed that any check could get past
GROWN_MAX = 512  # inputs that led somewhere new, of one target


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `decode` takes bytes as they come from a stranger; every `refusals` is a right answer, any other exception a bug.

    `again` gives back the bytes of what was decoded, where there is one form for each value; `tokens` are pieces of its language.
    """

    name: str
    decode: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...]
    bytes_max: int
    again: Callable[[object], bytes] | None = None
    tokens: tuple[bytes, ...] = ()

    def run(self, data: bytes) -> str:
        """How this input ends. Anything but a value or a declared refusal is raised as it comes."""
        try:
            value = self.decode(data)
        except self.refusals as refusal:
            return _place(refusal)
        if self.again is not None:
            assert self.again(value) == data, "two forms for one value"
        return f"a {value!r}" if value is None or isinstance(value, int | str) else f"a {type(value).__name__}"


@dataclass(slots=True)
class Findings:
    """What a run has seen."""

    inputs: int = 0
    taken: int = 0
    endings: dict[str, bytes] = field(default_factory=dict)  # and the first input that ended so
    slowest_seconds: float = 0.0
    slowest: bytes = b""


class Escaped(AssertionError):
    """Something that no caller is prepared for came out of a decoder."""


def fuzz(target: Target, *, inputs: int, seed: int = 0) -> Findings:
    """Feed `inputs` mutants. Raises Escaped with the input that did it."""
    rng = Random(hashlib.sha256(b"%d %s" % (seed, target.name.encode())).digest())  # a string's own hash changes
    corpus, found = list(target.seeds), Findings()
    for number in range(inputs):
        data = mutant(rng, corpus, target)
        started = time.perf_counter()
        ending = attempt(target, data)
        seconds = time.perf_counter() - started
        found.inputs += 1
        found.taken += ending.startswith("a ")
        if seconds > found.slowest_seconds and number:
            found.slowest_seconds, found.slowest = seconds, data
        if ending not in found.endings:
            found.endings[ending] = data
            if len(corpus) < GROWN_MAX:
                corpus.append(data)
    return found


def attempt(target: Target, data: bytes) -> str:
    """One input. Raises Escaped."""
    try:
        return target.run(data)
    except BaseException as escaped:  # a parser in Rust panics with a BaseException
        if isinstance(escaped, KeyboardInterrupt):
            raise
        shown = data.hex() if len(data) <= 4096 else f"{data[:2048].hex()}... ({len(data)} bytes)"
        raise Escaped(f"{target.name}: {escaped!r} out of {shown}") from escaped


def mutant(rng: Random, corpus: Sequence[bytes], target: Target) -> bytes:
    """A few changes to one of the corpus, or now and then no bytes of the corpus at all."""
    if rng.random() < 0.01:
        return rng.randbytes(pick(rng, (0, 1, 4, 40, 400)))
    data = bytearray(pick(rng, corpus))
    for _ in range(1 + below(rng, STACKED_MAX)):
        _CHANGES[below(rng, len(_CHANGES))](rng, data, corpus, target)
    return bytes(data[: target.bytes_max + 1])


def _flip(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    if data:
        data[below(rng, len(data))] ^= 1 << below(rng, 8)


def _set(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    if data:
        data[below(rng, len(data))] = pick(rng, INTERESTING)


def _number(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    """An integer of a usual width, at an edge of its range, near what stands there, or as long as something here."""
    width = pick(rng, (1, 2, 4, 4, 8))
    if len(data) < width:
        return
    at = below(rng, len(data) - width + 1)
    top = 1 << 8 * width
    here = int.from_bytes(data[at : at + width], "big")
    choices = (0, 1, top - 1, top // 2, top // 2 - 1, here + 1, here - 1, here * 2, len(data), len(data) - at - width)
    data[at : at + width] = (pick(rng, choices) % top).to_bytes(width, "big")


def _cut(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    del data[below(rng, len(data) + 1) :]


def _drop(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    start, end = _range(rng, data)
    del data[start:end]


def _double(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    start, end = _range(rng, data)
    data[end:end] = data[start:end]


def _move(rng: Random, data: bytearray, _: Sequence[bytes], __: Target) -> None:
    start, end = _range(rng, data)
    piece = data[start:end]
    del data[start:end]
    at = below(rng, len(data) + 1)
    data[at:at] = piece


def _insert(rng: Random, data: bytearray, _: Sequence[bytes], target: Target) -> None:
    piece = pick(rng, target.tokens) if target.tokens and rng.random() < 0.7 else rng.randbytes(pick(rng, (1, 4, 32)))
    at = below(rng, len(data) + 1)
    data[at:at] = piece


def _replace(rng: Random, data: bytearray, corpus: Sequence[bytes], target: Target) -> None:
    """A piece of the same length from the same place of another input: a field for a field, in a fixed layout."""
    other = pick(rng, corpus)
    start, end = _range(rng, data)
    data[start:end] = other[start:end]


def _splice(rng: Random, data: bytearray, corpus: Sequence[bytes], _: Target) -> None:
    other = pick(rng, corpus)
    data[below(rng, len(data) + 1) :] = other[below(rng, len(other) + 1) :]


_CHANGES = (_flip, _flip, _set, _number, _number, _cut, _drop, _double, _move, _insert, _replace, _splice)


def _range(rng: Random, data: bytearray) -> tuple[int, int]:
    """Mostly short; as wide as a key or a signature now and then."""
    start = below(rng, len(data) + 1)
    return start, min(len(data), start + pick(rng, (1, 2, 4, 8, 32, 64, below(rng, len(data) + 1))))


def below(rng: Random, end: int) -> int:
    """As `rng.randrange(end)`, at a quarter of its price: this is half of what an input of a short frame costs."""
    return int(rng.random() * end)


def pick(rng: Random, choices: Sequence[Any]) -> Any:
    return choices[int(rng.random() * len(choices))]


def _place(refusal: BaseException | None) -> str:
    """The line that refused, and the one that it puts in other words."""
    places = []
    while refusal is not None and len(places) < 3:
        traceback = refusal.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        if traceback is not None:
            places.append(f"{traceback.tb_frame.f_code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno}")
        refusal = refusal.__context__
    return " < ".join(places)
