"""The models that a block may lead to: each set of contributions is computed once, and weighed by who contributed."""

import pytest
import trio

from model.errors import PayloadError
from model.replica import Replica
from p2pnode import candidates as candidates_module
from p2pnode.blobs import Blobs
from p2pnode.candidates import Candidates
from tests.p2pnode.little import Chain, contribution, identities, payload

STRANGER = identities(9)[-1]


@pytest.fixture
def chain():
    return Chain(4)


@pytest.fixture
def candidates(tmp_path, chain):
    return Candidates(Blobs(tmp_path / "blobs", tmp_path / "snapshots"), chain.genesis.state(), chain.replicas[0])


@pytest.fixture
def computed(monkeypatch):
    """The number of models that were computed, as a list that grows."""
    calls = []
    real = Replica.apply
    monkeypatch.setattr(Replica, "apply", lambda *given: (calls.append(1), real(*given))[1])
    return calls


def offers(chain, *seeds):
    """Contributions of the first members, and their bytes."""
    state = chain.genesis.state()
    return [contribution(chain.founders[place], state, payload(seed)) for place, seed in enumerate(seeds)], [
        payload(seed) for seed in seeds
    ]


def same(one, other):
    return one.read(0, one.byte_length) == other.read(0, other.byte_length)


async def test_nothing_to_weigh_leaves_the_model(chain, candidates, computed):
    state = chain.genesis.state()
    candidate = await candidates.of([], [])
    assert candidate.replica is chain.replicas[0] and candidate.root == state.model_root
    stranger = await candidates.of([contribution(STRANGER, state, payload(1))], [payload(1)])
    assert stranger.replica is chain.replicas[0] and not computed


async def test_the_same_bytes_weigh_by_who_offers_them(chain, candidates):
    """A stranger who repeats a member's digest must not be remembered as a second member's vote for it, nor the other way round."""
    members, data = offers(chain, 1, 1)
    copied = [members[0], contribution(STRANGER, chain.genesis.state(), payload(1))]
    two, one = await candidates.of(members, data), await candidates.of(copied, data)
    assert same(two.replica, chain.replicas[0].apply(data, [1, 1]))
    assert same(one.replica, chain.replicas[0].apply(data, [1, 0]))


async def test_who_asks_for_what_is_being_computed_waits_for_it(chain, candidates, computed):
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(candidates.of, *offers(chain, 1, 2))
    assert len(computed) == 1
    await candidates.of(*offers(chain, 1, 2))
    assert len(computed) == 1


async def test_few_are_kept(chain, candidates, computed, monkeypatch):
    monkeypatch.setattr(candidates_module, "CANDIDATES_MAX", 2)
    for seed in (1, 2, 3, 3, 2, 1):
        await candidates.of(*offers(chain, seed))
    assert len(computed) == 4


async def test_a_bad_payload_is_refused_every_time(chain, candidates):
    one = [contribution(chain.founders[0], chain.genesis.state(), b"bad")]
    for _ in range(2):
        with pytest.raises(PayloadError):
            await candidates.of(one, [b"bad"])
