"""Frames: any cut of the stream gives the same frames, and a bad header is refused before its body arrives."""

import struct
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport.errors import Malformed
from transport.framing import APPLICATION_KIND_MIN, BULK_KINDS, FRAME_BYTES_MAX, FrameDecoder, Kind, encode_frame
from transport.limits import READ_BYTES, RECORD_BYTES

SMALL = some.tuples(some.sampled_from([Kind.ENVELOPE, Kind.REQUEST, Kind.LEAF, 0x80, 0xFF]), some.binary(max_size=200))


def decode(*pieces: bytes) -> list[tuple[int, bytes]]:
    decoder = FrameDecoder()
    found: list[tuple[int, bytes]] = []
    for piece in pieces:
        decoder.feed(piece)
        found.extend(decoder)
    return found


@given(some.lists(SMALL, max_size=8), some.lists(some.integers(min_value=0, max_value=2000), max_size=6))
def test_any_cut_of_the_stream_gives_the_same_frames(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(kind, body) for kind, body in frames)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert decode(*pieces) == [(int(kind), body) for kind, body in frames]


@pytest.mark.parametrize("seed", range(10))
def test_a_stream_that_is_written_into_the_room_gives_the_same_frames(seed: int) -> None:
    """For longer than the buffer is, so that it is used again and again."""
    random = Random(seed)
    kinds = [Kind.LEAF, Kind.ENVELOPE, Kind.PING, 0x81]
    frames = [
        (kind, random.randbytes(random.randint(0, FRAME_BYTES_MAX[kind]))) for kind in random.choices(kinds, k=24)
    ]
    stream, place, found = b"".join(encode_frame(*frame) for frame in frames), 0, []
    decoder = FrameDecoder()
    while place < len(stream):
        room = decoder.room()
        count = min(len(room), random.randint(1, RECORD_BYTES), len(stream) - place)
        assert len(room) >= RECORD_BYTES
        if random.random() < 0.2:
            decoder.feed(stream[place : place + count])
        else:
            room[:count] = stream[place : place + count]
            decoder.put(count)
        place += count
        if random.random() < 0.5:
            found.extend(decoder)
            assert decoder.next() is None
        elif place - sum(5 + len(body) for _, body in found) > READ_BYTES:  # no connection reads on before that
            found.extend(decoder)
    found.extend(decoder)
    assert found == [(int(kind), body) for kind, body in frames]


@pytest.mark.parametrize("kind", sorted(FRAME_BYTES_MAX))
def test_the_cap_holds_before_any_of_the_body_is_there(kind: int) -> None:
    cap = FRAME_BYTES_MAX[kind]
    assert decode(struct.pack(">BI", kind, cap)) == [] if cap else [(kind, b"")]
    with pytest.raises(Malformed, match=rf"0x{kind:02x} with {cap + 1} bytes"):
        decode(struct.pack(">BI", kind, cap + 1))
    with pytest.raises(ValueError, match=f"0x{kind:02x}"):
        encode_frame(kind, bytes(cap + 1))


@pytest.mark.parametrize("kind", sorted(set(range(APPLICATION_KIND_MIN)) - set(FRAME_BYTES_MAX)))
def test_unknown_kinds_are_refused(kind: int) -> None:
    with pytest.raises(Malformed, match="unknown kind"):
        decode(struct.pack(">BI", kind, 0))


def test_every_kind_has_a_cap_and_only_answers_are_bulk() -> None:
    assert set(Kind) <= set(FRAME_BYTES_MAX)
    assert {Kind.RESPONSE, Kind.HASHES, Kind.LEAF, Kind.BLOB_REFUSED, Kind.HELD} == BULK_KINDS


@given(some.binary(max_size=300))
def test_garbage_is_frames_or_malformed_and_nothing_else(data: bytes) -> None:
    try:
        frames = decode(data)
    except Malformed:
        return
    assert sum(5 + len(body) for _, body in frames) <= len(data)
