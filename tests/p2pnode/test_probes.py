"""Who sent a probe lately: the same from memory and from the disk."""

import consensus
from consensus import Purpose
from p2pnode.probes import Probes
from p2pnode.store import Store
from tests.p2pnode.little import Chain, certify, contribution, payload


def test_a_probe_is_remembered_for_ten_heights(tmp_path):
    chain = Chain(4).grow(2)
    data = payload(7)
    prober = chain.founders[2]
    listed = [contribution(prober, chain.state, data, purpose=Purpose.PROBE)]
    template = consensus.BlockTemplate(chain.state, chain.state.membership.current.proposer(3, 0))
    block = consensus.build_block(template, contributions=listed, model_root=chain.state.model_root)
    certificate = certify(chain.founders, chain.genesis.chain_id, block)
    store = Store(tmp_path / "chain.sqlite", chain.genesis.chain_id)
    for decided in [*chain.decided, (block, certificate)]:
        store.put_block(*decided, {})
    seen, read = Probes(store), Probes(store)
    for decided, _ in [*chain.decided, (block, certificate)]:
        seen.note(decided)
    for probes in (seen, read):
        assert probes.at(3) == {prober.public_key} and probes.at(2) == frozenset()
        assert probes.recent(3) == frozenset()
        assert all(probes.recent(height) == {prober.public_key} for height in range(4, 13))
        assert probes.recent(13) == frozenset()
        assert (probes.last(prober.public_key, 12), probes.last(prober.public_key, 13)) == (3, None)
        assert probes.last(chain.founders[0].public_key, 12) is None
    store.close()
