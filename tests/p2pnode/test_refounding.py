"""A network that lost its quorum for good goes on as another, from the last model that its certificates prove."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from model.replica import Replica
from p2pnode import founding, refounding
from p2pnode.config import Config, Endpoint
from p2pnode.errors import SetUpError
from p2pnode.genesis import parse
from p2pnode.home import Home
from p2pnode.housekeeping import Housekeeping
from p2pnode.store import Store
from tests.p2pnode.little import TEXT, Chain, identities, make_genesis
from tests.p2pnode.machines import Machine, founder
from tests.p2pnode.test_membership import command, go_on, together


def survivor(
    directory: Path, chain: Chain, *, heights: int, snapshots: tuple[int, ...] = (), lost: int | None = None
) -> Home:
    """The home of a node that saw so much of the chain; the payloads of height ``lost`` are gone."""
    home = Home(directory)
    home.create()
    founding.write_genesis(home, chain.genesis)
    blobs, store = founding.open_blobs(home), Store(home.chain, chain.genesis.chain_id)
    blobs.put(TEXT)
    for block, certificate in chain.decided[:heights]:
        store.put_block(block, certificate, {"height": block.height})
        for contribution in block.contributions if block.height != lost else ():
            blobs.put(chain.payloads[contribution.payload_digest])
    for height in snapshots:
        blobs.put_snapshot(height, chain.states[height].model_root, chain.replicas[height], keep=2)
    store.close()
    return home


def settings(home: Home) -> Config:
    return Config(home=home.path, listen=Endpoint("127.0.0.1", 7400))


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(4).grow(6)


@pytest.mark.parametrize(("snapshots", "lost", "reached"), [((), None, 6), ((4,), 2, 6), ((3,), 5, 4), ((), 1, 0)])
def test_the_last_model_that_the_disk_can_show_is_the_first_of_the_new_network(
    tmp_path: Path, chain: Chain, snapshots: tuple[int, ...], lost: int | None, reached: int
) -> None:
    source = survivor(tmp_path / "old", chain, heights=6, snapshots=snapshots, lost=lost)
    home = Home(tmp_path / "new")
    other = identities(9)[-1].public_key
    genesis, last = refounding.refound(home, settings(home), source=source, founders=[f"{other.hex()}@192.0.2.1:7337"])
    assert (last.state.height, last.tip) == (reached, 6)
    assert genesis.model_root == chain.states[reached].model_root and parse(home.genesis.read_bytes()) == genesis
    assert genesis.refounded is not None
    origin = (genesis.refounded.network, genesis.refounded.height, genesis.refounded.block)
    assert origin == (chain.genesis.chain_id, reached, chain.states[reached].block_hash)
    assert genesis.chain_id != chain.genesis.chain_id and genesis.corpus_digest == chain.genesis.corpus_digest
    mine = founding.identity_of(home).public_key
    assert {f.public_key for f in genesis.founders} == {mine, other}
    blobs = founding.open_blobs(home)
    model = founding.first_model(genesis, blobs.get(genesis.model_root))
    assert isinstance(model, Replica) and blobs.model_root(model) == genesis.model_root
    assert blobs.get(genesis.corpus_digest) == TEXT


def test_what_every_newcomer_needs_is_never_swept(tmp_path: Path, chain: Chain) -> None:
    source, home = survivor(tmp_path / "old", chain, heights=3), Home(tmp_path / "new")
    genesis, _ = refounding.refound(home, settings(home), source=source)
    blobs, store = founding.open_blobs(home), Store(home.chain, genesis.chain_id)
    blobs.put(b"an orphan")
    Housekeeping(store, blobs, kept=genesis.blobs).sweep(0)
    assert blobs.listed() == {genesis.model_root, genesis.corpus_digest}
    store.close()


def test_a_refounded_network_can_be_refounded(tmp_path: Path, chain: Chain) -> None:
    source, home = survivor(tmp_path / "old", chain, heights=3), Home(tmp_path / "new")
    first, _ = refounding.refound(home, settings(home), source=source)
    again, last = refounding.refound(Home(tmp_path / "newer"), settings(home), source=home)
    assert again.model_root == first.model_root and last.state.height == 0
    assert again.refounded is not None and again.refounded.network == first.chain_id


def test_an_allowlist_goes_on_with_the_new_founders_in_it(tmp_path: Path) -> None:
    keys = tuple(i.public_key for i in identities(4))
    chain = Chain(4, genesis=make_genesis(identities(4), policy="allowlist", allowlist=keys, threshold_percent=80))
    source, home = survivor(tmp_path / "old", chain.grow(1), heights=1), Home(tmp_path / "new")
    genesis, _ = refounding.refound(home, settings(home), source=source)
    assert set(genesis.allowlist) == {*keys, founding.identity_of(home).public_key}
    assert (genesis.policy, genesis.threshold_percent) == ("allowlist", 80)


def test_what_cannot_be_refounded_is_refused_and_nothing_is_left(tmp_path: Path, chain: Chain) -> None:
    home = Home(tmp_path / "new")
    with pytest.raises(SetUpError, match="belongs to no network"):
        refounding.refound(home, settings(home), source=Home(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    source = survivor(tmp_path / "old", chain, heights=3)
    store = Store(source.chain, chain.genesis.chain_id)
    block, _ = chain.decided[1]
    store.put_block(block, chain.decided[2][1], {})
    store.close()
    with pytest.raises(SetUpError, match="block 2 of the old chain: its certificate is for another block"):
        refounding.refound(home, settings(home), source=source)
    assert not home.initialised
    with pytest.raises(SetUpError, match="belongs to a network already"):
        refounding.refound(source, settings(source), source=source)
    with source.locked(), pytest.raises(SetUpError, match="a node is running in it already"):
        refounding.refound(home, settings(home), source=source)


@pytest.mark.long
def test_two_of_four_are_gone_for_good_and_the_others_go_on(machines: Callable[[str], Machine], tmp_path: Path) -> None:
    old = [machines(name) for name in ("first", "second", "third", "fourth")]
    address = founder(old[0], tmp_path)
    for node in old[1:]:
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    together(*old)
    go_on(3, *old)
    for node in old[2:]:
        node.end(signal.SIGKILL)
    for node in old[:2]:
        node.until(lambda s: s["verdict"] == "halted")
    height = max(node.status()["height"] for node in old[:2])
    keeper = next(node for node in old[:2] if node.status()["height"] == height)
    root, loss = keeper.status()["model_root"], keeper.client.evaluate()["validation_loss"]
    for node in old[:2]:
        assert node.end(signal.SIGINT) == 0

    one, two = machines("one"), machines("two")
    done = command(one, "refound", "--from", str(keeper.home), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["from_height"], said["model_root"]) == (height, root)
    one.start("--listen", "127.0.0.1:0", "--no-train")
    status = one.until(lambda s: s["role"] == "member")
    assert (status["height"], status["model_root"], status["network"]) == (0, root, said["network"])
    assert one.client.evaluate()["validation_loss"] == pytest.approx(loss, rel=1e-4)
    two.start("--listen", "127.0.0.1:0", "--bootstrap", str(status["listen"]))
    two.until(lambda s: s["role"] == "contributor" and s["network"] == said["network"])
    one.client.train()
    go_on(4, one, two)
    assert one.client.evaluate()["validation_loss"] < loss
