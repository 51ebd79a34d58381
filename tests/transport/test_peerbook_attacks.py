"""The address book against somebody with many keys and few networks, and against the wear of time.

Keys are made up at no cost, addresses inside one netgroup nearly so; other people's netgroups are what an attacker has not. All the
records here are real and signed, and all the numbers are counted.
"""

from collections import Counter
from functools import cache
from random import Random

import pytest

from transport import limits
from transport.address import Address, Scope
from transport.identity import Identity
from transport.netgroup import netgroup
from transport.peerbook import Entry, PeerBook, PeerRecord
from transport.statement import ChainId

CHAIN = ChainId(b"\x11" * 32)
NOW = 1_700_000_000.0
DAY = 86400.0
MALLORY = "93.184"


@cache
def who(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def at(number: int, host: str) -> PeerRecord:
    return PeerRecord.sign(who(number), CHAIN, sequence=int(NOW * 1000), address=Address(host, 7337))


def honest_host(number: int) -> str:
    """Each in a netgroup of its own."""
    return f"{20 + number // 200}.{number % 200}.0.1"


def tell(book: PeerBook, record: PeerRecord, source: str, *, now: float = NOW) -> bool:
    return book.add(record, source=Address(source, 1), chain_id=CHAIN, now=now)


def met(book: PeerBook, record: PeerRecord, *, now: float = NOW) -> None:
    """It told us of itself, and our dial was answered."""
    tell(book, record, record.address.host, now=now)
    book.succeeded(record.key, record.address, now=now)


def reach(book: PeerBook, record: PeerRecord, *, now: float = NOW) -> Entry:
    met(book, record, now=now)
    entry = book.get(record.key, record.address.scope)
    assert entry is not None
    return entry


def fail(book: PeerBook, entry: Entry, times: int, *, now: float = NOW, apart: float = 60.0) -> bool:
    gone = [
        book.failed(entry.record.key, entry.record.address, now=now + number * apart) for number in range(1, times + 1)
    ]
    return gone[-1]


def flood(book: PeerBook, count: int, *, source: str = f"{MALLORY}.1.1", elsewhere: bool = False) -> int:
    """Records that one teller makes up: of addresses in his own netgroup, or anywhere. Says how many got in."""
    random = Random(5)
    taken = 0
    for number in range(count):
        own = f"{MALLORY}.{number // 250}.{number % 250 + 1}"
        anywhere = f"{random.randrange(11, 90)}.{random.randrange(256)}.1.1"
        taken += tell(book, at(10_000 + number, anywhere if elsewhere else own), source)
    return taken


def test_a_flood_from_one_netgroup_of_its_own_addresses_gets_one_bucket() -> None:
    book = PeerBook(b"\x01" * 32)
    friends = [reach(book, at(n, honest_host(n))) for n in range(20)]
    others = [at(n, honest_host(n)) for n in range(20, 60)]
    for n, record in enumerate(others):
        assert tell(book, record, honest_host(n % 20))
    assert flood(book, 2000) <= limits.BUCKET_ENTRIES
    assert all(book.get(e.record.key, Scope.GLOBAL) is not None for e in friends)
    assert all(book.get(record.key, Scope.GLOBAL) is not None for record in others)
    first = [entry.record.address.host for _, entry in zip(range(60), book.candidates(Random(1)), strict=False)]
    assert sum(host.startswith(MALLORY) for host in first) <= 10, "and few of the places where dialing begins"


def test_a_flood_of_addresses_anywhere_gets_an_eighth_of_the_new_table_and_nothing_else() -> None:
    book = PeerBook(b"\x02" * 32)
    friends = [reach(book, at(n, honest_host(n))) for n in range(20)]
    assert flood(book, 4000, elsewhere=True) <= limits.NEW_BUCKETS_PER_SOURCE * limits.BUCKET_ENTRIES
    assert book.tried == len(friends)
    taken = sum(tell(book, at(n, honest_host(n)), honest_host(n % 20)) for n in range(20, 120))
    assert taken >= 85, "whom others tell of falls into other buckets, most of them free"
    first = [entry.record.key for _, entry in zip(range(16), book.candidates(Random(1)), strict=False)]
    assert sum(key in {e.record.key for e in friends} for key in first) == 8, "every second one has been reached before"


def test_reached_addresses_of_one_netgroup_fill_four_buckets_of_tried() -> None:
    """An attacker who runs real nodes on every address that he has."""
    book = PeerBook(b"\x03" * 32)
    for number in range(600):
        met(book, at(10_000 + number, f"{MALLORY}.{number // 250}.{number % 250 + 1}"))
    assert book.tried <= limits.TRIED_BUCKETS_PER_GROUP * limits.BUCKET_ENTRIES
    for number in range(100):
        met(book, at(number, honest_host(number)))
    tried = [entry for entry in book if entry.is_tried]
    assert sum(not e.record.address.host.startswith(MALLORY) for e in tried) >= 90


@pytest.fixture
def full() -> tuple[PeerBook, list[Entry], Entry]:
    """A bucket of `tried` that is full, its oldest entry first, and one more that has just been reached."""
    book = PeerBook(b"\x04" * 32)
    inside: list[Entry] = []
    number = 0
    while True:
        record = at(number, f"{MALLORY}.{number // 250}.{number % 250 + 1}")
        entry = reach(book, record, now=NOW + number)
        if not entry.is_tried:
            break
        inside.append(entry)
        number += 1
    challenger = entry
    oldest = book.to_test()
    assert oldest is not None
    bucket = [e for e in book if e.places == oldest.places and e.is_tried]
    assert len(bucket) == limits.BUCKET_ENTRIES
    assert oldest.succeeded_at == min(e.succeeded_at for e in bucket), "the one that was reached longest ago"
    return book, [oldest, *bucket], challenger


def test_nothing_takes_a_place_before_its_holder_was_looked_at(full: tuple[PeerBook, list[Entry], Entry]) -> None:
    book, (oldest, *_), challenger = full
    book.succeeded(oldest.record.key, oldest.record.address, now=NOW + DAY)
    assert book.to_test() is None
    kept, turned_away = book.get(*oldest.slot), book.get(*challenger.slot)
    assert kept is not None and turned_away is not None
    assert (kept.is_tried, turned_away.is_tried) == (True, False)


def test_a_holder_that_is_gone_makes_room_and_may_come_back(full: tuple[PeerBook, list[Entry], Entry]) -> None:
    book, (oldest, *_), challenger = full
    assert not book.failed(oldest.record.key, oldest.record.address, now=NOW + DAY)
    gone, taken = book.get(*oldest.slot), book.get(*challenger.slot)
    assert gone is not None and taken is not None
    assert (gone.is_tried, taken.is_tried) == (False, True)
    assert book.to_test() is None


def test_pending_looks_are_bounded(monkeypatch: pytest.MonkeyPatch, full: tuple[PeerBook, list[Entry], Entry]) -> None:
    monkeypatch.setattr(limits, "EVICTION_TESTS_MAX", 1)
    book, (oldest, *_), _ = full
    for number in range(2000, 2200):
        met(book, at(number, f"{MALLORY}.{200 + number % 8}.{number % 250 + 1}"), now=NOW + 5000)
    assert len(book._tests) <= 1
    book.forget(oldest.record.key, oldest.record.address)
    assert book.to_test() is None


def test_what_never_answered_is_dropped_after_three_failures_a_minute_apart() -> None:
    book = PeerBook(b"\x05" * 32)
    tell(book, at(1, honest_host(1)), honest_host(2))
    (entry,) = book
    assert not fail(book, entry, 20, apart=1.0), "twenty in twenty seconds are one"
    assert len(book) == 1
    assert fail(book, entry, limits.FAILURES_UNPROVEN_MAX - 1, now=NOW + DAY)
    assert len(book) == 0


def test_what_answered_once_is_kept_for_a_week() -> None:
    book = PeerBook(b"\x05" * 32)
    entry = reach(book, at(1, honest_host(1)))
    assert not fail(book, entry, 50)
    assert fail(book, entry, 1, now=NOW + 8 * DAY)


def test_members_are_never_dropped_and_always_let_in() -> None:
    book = PeerBook(b"\x06" * 32)
    flood(book, 500)
    member = at(1, f"{MALLORY}.9.9")
    assert not tell(book, member, f"{MALLORY}.1.1"), "the bucket is full"
    book.members = frozenset((member.key,))
    assert tell(book, member, f"{MALLORY}.1.1")
    entry = book.get(member.key, Scope.GLOBAL)
    assert entry is not None
    assert not fail(book, entry, 50, now=NOW + 30 * DAY)
    book.forget(member.key, member.address)
    assert flood(book, 500) == 0
    assert book.get(member.key, Scope.GLOBAL) is not None


def test_in_a_full_bucket_the_stale_make_room() -> None:
    book = PeerBook(b"\x07" * 32)
    flood(book, 500)
    late = PeerRecord.sign(who(1), CHAIN, sequence=int((NOW + 8 * DAY) * 1000), address=Address(f"{MALLORY}.9.9", 7337))
    assert not tell(book, late, f"{MALLORY}.1.1", now=NOW + 6 * DAY), (
        "and it is no reason to drop one that was heard of"
    )
    assert tell(book, late, f"{MALLORY}.1.1", now=NOW + 8 * DAY)


def test_who_is_told_of_from_many_netgroups_stands_in_four_buckets() -> None:
    book = PeerBook(b"\x08" * 32)
    record = at(1, honest_host(1))
    for number in range(2, 150):
        tell(book, record, honest_host(number))
    (entry,) = book
    assert len(entry.places) == limits.NEW_PLACES_MAX
    assert len(book) == 1
    book.succeeded(record.key, record.address, now=NOW)
    (entry,) = book
    assert (entry.is_tried, len(entry.places), len(book._new)) == (True, 1, 0)


def test_where_one_of_several_places_is_needed_it_is_given() -> None:
    book = PeerBook(b"\x09" * 32)
    widely = at(1, f"{MALLORY}.250.250")
    for number in range(2, 150):
        tell(book, widely, honest_host(number))
    tell(book, widely, f"{MALLORY}.1.1")
    places = book.get(widely.key, Scope.GLOBAL)
    assert places is not None and len(places.places) == limits.NEW_PLACES_MAX
    sources = {
        number: book._key.new(widely.address, netgroup(Address(honest_host(number), 1))) for number in range(2, 150)
    }
    source = honest_host(next(number for number, bucket in sources.items() if bucket in places.places))
    assert flood(book, 500, source=source) == limits.BUCKET_ENTRIES
    after = book.get(widely.key, Scope.GLOBAL)
    assert after is not None and len(after.places) == limits.NEW_PLACES_MAX - 1


def test_a_node_that_moves_begins_anew_and_only_it_can_move_itself() -> None:
    book = PeerBook(b"\x0a" * 32)
    entry = reach(book, at(1, honest_host(1)))
    newer = PeerRecord.sign(who(1), CHAIN, sequence=int(NOW * 1000) + 1, address=Address(honest_host(2), 7337))
    assert tell(book, newer, honest_host(3))
    moved = book.get(*entry.slot)
    assert moved is not None
    assert (moved.is_tried, moved.succeeded_at, moved.record.address.host) == (False, 0.0, honest_host(2))
    assert book.tried == 0
    book.succeeded(entry.record.key, entry.record.address, now=NOW)  # the old address answers; nobody says so any more
    assert book.tried == 0


def test_a_feeler_takes_any_bucket_and_never_a_peer() -> None:
    book = PeerBook(b"\x0b" * 32)
    records = [at(n, honest_host(n)) for n in range(20)]
    for record in records:
        tell(book, record, record.address.host)
    keys = {record.key for record in records}
    drawn = Counter(e.record.key for seed in range(300) if (e := book.unproven((), Random(seed))) is not None)
    assert drawn.keys() == keys
    assert book.unproven(keys, Random(1)) is None
    for record in records:
        book.succeeded(record.key, record.address, now=NOW)
    assert book.unproven((), Random(1)) is None


def test_candidates_are_everything_once() -> None:
    book = PeerBook(b"\x0c" * 32)
    for number in range(50):
        record = at(number, honest_host(number))
        tell(book, record, honest_host(number + 1))
        tell(book, record, honest_host(number + 2))
        if number % 2:
            book.succeeded(record.key, record.address, now=NOW)
    found = list(book.candidates(Random(1)))
    assert sorted(e.record.key for e in found) == sorted(e.record.key for e in book)
    assert [e.is_tried for e in found[:10]] == [True, False] * 5


def test_a_whole_book_is_saved_and_loaded_as_it_was() -> None:
    book = PeerBook(b"\x0d" * 32)
    for number in range(300):
        record = at(number, honest_host(number))
        tell(book, record, honest_host(number + 1))
        if number % 3 == 0:
            book.succeeded(record.key, record.address, now=NOW)
        if number % 5 == 0:
            book.failed(record.key, record.address, now=NOW)
    again = PeerBook.load(book.dump())
    assert list(again) == list(book)
    assert (again.tried, len(again)) == (book.tried, len(book))
    assert [e.record.key for e in again.candidates(Random(1))] == [e.record.key for e in book.candidates(Random(1))]
