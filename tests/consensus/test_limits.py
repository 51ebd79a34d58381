"""Bounds of limits.py at their edge: what fits is taken, one more is not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from consensus import (
    Block,
    Committee,
    Evidence,
    Malformed,
    Membership,
    Prepare,
    PublicKey,
    Rules,
    SetTimer,
    TimerKind,
    ViewCertificate,
    decode_certificate,
    decode_message,
    limits,
)
from consensus.block import contributions_hash
from consensus.evidence import EVIDENCE_BYTES_MAX
from consensus.facts import Facts
from consensus.forks import Decisions
from consensus.membership import ANSWERED_MAX, MEMBERSHIP_BYTES_MAX, OFFENCES_MAX
from consensus.record import RECORD_BYTES_MAX, Record
from consensus.suspicion import Suspicion
from consensus.timeouts import Timeouts
from consensus.verified import VerifiedSignatures
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, ROOT_0, contribution
from tests.consensus.bench import Bench, of


def stranger(number: int) -> PublicKey:
    return PublicKey(b"\xfe" + number.to_bytes(31, "big"))


# --- what is decoded -------------------------------------------------------------------------------------------------------


def proposal(attachment: bytes) -> object:
    """With an attachment of our choice."""
    said = Bench().proposal(1, 0, Bench().block(1))
    return decode_message(
        CHAIN_ID,
        author=said.author,
        signature=said.signature,
        statement=said.statement(CHAIN_ID),
        attachment=attachment,
    )


@pytest.mark.parametrize(
    ("decode", "most"),
    [
        (Block.decode, limits.BLOCK_BYTES_MAX),
        (decode_certificate, limits.CERTIFICATE_BYTES_MAX),
        (proposal, limits.ATTACHMENT_BYTES_MAX),
        (Evidence.decode, EVIDENCE_BYTES_MAX),
        (Membership.decode, MEMBERSHIP_BYTES_MAX),
        (Record.decode, RECORD_BYTES_MAX),
    ],
)
def test_what_is_longer_than_it_can_be_is_not_looked_at(decode: Callable[[bytes], object], most: int) -> None:
    with pytest.raises(Malformed, match=f"of {most + 1} bytes, at most {most} allowed"):
        decode(bytes(most + 1))
    with pytest.raises(Malformed) as caught:
        decode(bytes(most))
    assert "bytes, at most" not in str(caught.value)


def test_the_widest_certificate_fits_and_is_of_a_whole_committee() -> None:
    entries = [(stranger(number), bytes(32), bytes(64)) for number in range(limits.MEMBERS_MAX + 1)]
    whole = ViewCertificate(1, 0, tuple(entries[1:]))  # type: ignore[arg-type]
    assert decode_certificate(whole.encode()) == whole
    with pytest.raises(Malformed, match=f"{limits.MEMBERS_MAX + 1} entries"):
        decode_certificate(ViewCertificate(1, 0, tuple(entries)).encode()[: limits.CERTIFICATE_BYTES_MAX])  # type: ignore[arg-type]


def test_a_committee_is_no_larger() -> None:
    keys = [stranger(number) for number in range(limits.MEMBERS_MAX + 1)]
    assert len(Committee.of(keys[1:])) == Rules(members_max=limits.MEMBERS_MAX).members_max == limits.MEMBERS_MAX
    with pytest.raises(ValueError, match="committee"):
        Committee.of(keys)
    with pytest.raises(ValueError, match="MEMBERS_MAX"):
        Rules(members_max=limits.MEMBERS_MAX + 1)


def test_so_many_are_permitted_by_name() -> None:
    keys = tuple(stranger(number) for number in range(limits.PERMITTED_MAX + 1))
    assert Rules(admission="allowlist", allowlist=keys[1:]).allowlist == keys[1:]
    with pytest.raises(ValueError, match=f"at most {limits.PERMITTED_MAX}"):
        Rules(admission="allowlist", allowlist=keys)


def test_a_block_lists_so_many_contributions() -> None:
    bench = Bench()
    block = bench.block(1)
    draft = contribution(bench.signatures, 1, bench.state)
    listed = tuple(replace(draft, author=stranger(number)) for number in range(limits.CONTRIBUTIONS_PER_BLOCK_MAX + 1))

    def holding(count: int) -> Block:
        contents = listed[:count]
        header = replace(block.header, contributions_hash=contributions_hash(contents))
        return replace(block, header=header, contributions=contents)

    most = holding(limits.CONTRIBUTIONS_PER_BLOCK_MAX)
    assert Block.decode(most.encode()) == most
    with pytest.raises(Malformed, match="too many entries"):
        holding(limits.CONTRIBUTIONS_PER_BLOCK_MAX + 1)


LISTS = (
    *(2 * [limits.CONTRIBUTIONS_PER_BLOCK_MAX]),
    limits.PERMITTED_MAX + limits.MEMBERS_MAX,
    limits.MEMBERS_MAX,
    OFFENCES_MAX,
    limits.CANDIDATES_MAX,
    ANSWERED_MAX,
    limits.GUESTS_MAX,
    limits.TOKENS_USED_MAX,
)


@pytest.mark.parametrize("place", range(len(LISTS)))
def test_a_list_of_a_membership_claims_no_more_than_there_can_be(place: int) -> None:
    state = Bench().state.membership
    encoded = state.encode()
    at = sum(len(committee.encode()) for committee in (state.previous, state.current, state.next)) + 4 * place

    def claiming(count: int) -> bytes:
        return encoded[:at] + count.to_bytes(4, "big") + encoded[at + 4 :]

    with pytest.raises(Malformed, match=f"{LISTS[place] + 1} entries, at most {LISTS[place]} allowed"):
        Membership.decode(claiming(LISTS[place] + 1))
    with pytest.raises(Malformed, match="cut short"):
        Membership.decode(claiming(LISTS[place]))


def test_views_have_a_last_number() -> None:
    def vote(view: int) -> object:
        said = Bench().sign(Prepare(key(1), 1, view, bytes(32), -1, b""))  # type: ignore[arg-type]
        return decode_message(
            CHAIN_ID, author=said.author, signature=said.signature, statement=said.statement(CHAIN_ID), attachment=b""
        )

    assert isinstance(vote(limits.VIEW_MAX), Prepare)
    with pytest.raises(Malformed, match=f"view {limits.VIEW_MAX + 1}"):
        vote(limits.VIEW_MAX + 1)


# --- what is kept ----------------------------------------------------------------------------------------------------------


class Nobody:
    """Whom a height tells of what it saw."""

    def suspect(self, author: PublicKey, *signed: object) -> None: ...
    def refuse(self, peer: PublicKey | None, reason: str) -> None: ...
    def notice(self, block: Block) -> None: ...


def facts(bench: Bench) -> Facts:
    return Facts(bench.state, verify=VerifiedSignatures(bench.signatures.verify), observer=Nobody())


def test_votes_of_views_near_ours_are_kept() -> None:
    bench = Bench()
    height = facts(bench)
    height.move_to(1000)
    oldest, newest = 1000 - limits.VIEWS_KEPT_MAX, 1000 + limits.VIEWS_AHEAD_MAX
    for view in (oldest - 1, oldest, newest, newest + 1):
        height.add_vote(bench.prepare(1, view, None))
    assert sorted(height._views) == [oldest, newest]
    height.move_to(1001)
    assert sorted(height._views) == [newest]


def test_blocks_that_nobody_needs_are_few() -> None:
    """Each view's proposer may show two, and views do not end by themselves."""
    bench = Bench(nodes=7)
    height = facts(bench)
    listed = [some for count in range(8) for some in combinations(range(7), count)]
    blocks = [bench.block(1, *some) for some in listed[: limits.BLOCKS_PER_HEIGHT_MAX + 10]]
    for block in blocks:
        height.add_block(block, sender=None)
    held = [block for block in blocks if height.block(block.hash) is not None]
    assert held == blocks[: limits.BLOCKS_PER_HEIGHT_MAX]
    wanted = blocks[-1]
    assert height.add_certificate(bench.committed(0, wanted, range(5))) is None
    height.add_block(wanted, sender=None)
    assert height.block(wanted.hash) == wanted, "a certificate names it"


def test_contributions_of_strangers_are_watched_up_to_a_number_and_members_always() -> None:
    bench, suspicion = Bench(), Suspicion()
    draft = contribution(bench.signatures, 1, bench.state)
    other = replace(draft, payload_digest=ROOT_0)

    def caught(author: PublicKey) -> bool:
        assert suspicion.watch(replace(draft, author=author), bench.state) is None
        return suspicion.watch(replace(other, author=author), bench.state) is not None

    for number in range(limits.CONTRIBUTIONS_WATCHED_MAX - 1):
        suspicion.watch(replace(draft, author=stranger(number)), bench.state)
    assert caught(stranger(limits.CONTRIBUTIONS_WATCHED_MAX - 1))
    assert not caught(stranger(limits.CONTRIBUTIONS_WATCHED_MAX))
    assert caught(key(1))


def test_decisions_are_remembered_for_some_heights() -> None:
    bench, decisions = Bench(), Decisions()
    state = bench.state
    for _ in range(limits.DECISIONS_KEPT_MAX + 3):
        block = bench.block_on(state)
        state = state.after(block, bench.committed(0, block, (0, 1, 2)))
        decisions.add(state, ())
    oldest = state.height - limits.DECISIONS_KEPT_MAX + 1
    assert [height for height in range(1, state.height + 1) if decisions.held(height)] == list(
        range(oldest, state.height + 1)
    )


def test_of_a_fork_some_certificates_are_compared() -> None:
    """Whoever forks has a third of the committee, and can make as many as there are views."""
    bench, decisions = Bench(), Decisions()
    ours, theirs = bench.block(1, 0), bench.block(1, 1)
    decisions.add(bench.state.after(ours, bench.committed(0, ours, (0, 1, 2))), ())
    heard = [
        decisions.hear(bench.committed(view, theirs, (1, 2, 3)), chain_id=CHAIN_ID, verify=bench.signatures.verify)
        for view in range(limits.FORK_CERTIFICATES_MAX + 3)
    ]
    assert heard == [True] + [False] * (limits.FORK_CERTIFICATES_MAX - 1) + [None] * 3


# --- how long is waited ----------------------------------------------------------------------------------------------------


def test_what_is_measured_counts_within_bounds() -> None:
    times = Timeouts()
    assert times.seconds(TimerKind.SYNC, 0) == 2 * limits.DELAY_SECONDS_DEFAULT
    assert times.seconds(TimerKind.PREPARE, 0) == 3 * limits.DELAY_SECONDS_DEFAULT + limits.CHECK_SECONDS_DEFAULT
    times.measured(delay_seconds=0.0, check_seconds=0.0)
    assert times.seconds(TimerKind.SYNC, 0) == 2 * limits.DELAY_SECONDS_MIN
    assert times.seconds(TimerKind.PREPARE, 0) == 3 * limits.DELAY_SECONDS_MIN + limits.CHECK_SECONDS_MIN
    times.measured(delay_seconds=1e9, check_seconds=1e9)
    assert times.seconds(TimerKind.SYNC, 0) == 2 * limits.DELAY_SECONDS_MAX
    assert times.seconds(TimerKind.PREPARE, 0) == 3 * limits.DELAY_SECONDS_MAX + limits.CHECK_SECONDS_MAX


def test_each_view_waits_longer_up_to_a_bound_and_some_of_it_is_carried_over() -> None:
    times = Timeouts()
    first, most = times.seconds(TimerKind.SYNC, 0), limits.TIMEOUT_EXPONENT_MAX
    assert times.seconds(TimerKind.SYNC, 1) == pytest.approx(first * limits.TIMEOUT_GROWTH)
    assert times.seconds(TimerKind.SYNC, most) == pytest.approx(first * limits.TIMEOUT_GROWTH**most)
    assert times.seconds(TimerKind.SYNC, most + 1) == times.seconds(TimerKind.SYNC, most)
    times.decided_in(limits.TIMEOUT_CARRIED_MAX + 5)
    assert times.seconds(TimerKind.SYNC, 0) == pytest.approx(first * limits.TIMEOUT_GROWTH**limits.TIMEOUT_CARRIED_MAX)


def test_what_was_said_is_said_again_about_once_a_second_and_not_in_step() -> None:
    gaps = []
    for node in range(50):
        bench = Bench(node, nodes=50)
        (armed,) = [e for e in of(SetTimer, bench.begin()) if e.timer.kind == TimerKind.REBROADCAST]
        gaps.append(armed.seconds)
    spread = limits.REBROADCAST_SECONDS * limits.REBROADCAST_JITTER
    assert limits.REBROADCAST_SECONDS - spread <= min(gaps) < max(gaps) <= limits.REBROADCAST_SECONDS + spread
    assert max(gaps) - min(gaps) > 1.5 * spread and len(set(gaps)) == 50
