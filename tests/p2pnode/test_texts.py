"""A network's text and tokenizer: had from the disk or from peers, as files, and refused where they do not fit."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import trio
from tokenizers import models

from model.data import Corpus, CorpusFile
from model.errors import CorpusError
from model.tokenizer import ByteTokenizer, JsonTokenizer
from model.tokenizer_training import train
from model.words import BYTES, Words
from p2pnode import texts
from p2pnode.blobs import Blobs
from p2pnode.config import Config, Endpoint
from p2pnode.errors import SetUpError
from p2pnode.founding import initialise
from p2pnode.genesis import TokenizerBlob
from p2pnode.home import Home
from p2pnode.node import Kit, Node
from tests.p2pnode.little import TEXT, Chain, identities, make_genesis, size_file, until
from tests.p2pnode.rig import Joiner, Peer
from tests.p2pnode.test_node import NEWCOMER, height, living, make_home, make_node, ready
from transport import content

CHAIN = Chain(4).grow(1)
GENESIS = CHAIN.genesis
DOCUMENT = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).to_str().encode()


@pytest.fixture
async def founders(tmp_path, nursery):
    """Two peers of a network whose text they do not hold."""
    found = [Peer(tmp_path / f"peer{place}", CHAIN, heights=1, seed=90 + place) for place in range(2)]
    for peer in found:
        await nursery.start(peer.run, ())
    return found


@pytest.fixture
async def joiner(tmp_path, nursery, founders):
    me = Joiner(tmp_path, *founders)
    await nursery.start(me.swarm.run)
    await until(lambda: len(me.swarm.peers()) == 2)
    me.swarm.pin(GENESIS.chain_id)
    return me


def blobs_in(directory: Path) -> Blobs:
    directory.mkdir(exist_ok=True)
    return Blobs(directory / "blobs", directory / "snapshots")


async def test_the_text_is_had_from_the_disk_or_waited_for(founders, joiner):
    got: list[CorpusFile] = []

    async def bring() -> None:
        got.append(await texts.bring_corpus(joiner.swarm, joiner.blobs, GENESIS, joiner.log))

    async with trio.open_nursery() as bringing:
        bringing.start_soon(bring)
        await until(lambda: joiner.log.said("waiting for the text"))
        founders[1].blobs.put(TEXT)
    assert got[0].path.read_bytes() == TEXT and len(got[0]) == len(TEXT)
    assert joiner.blobs.get(GENESIS.corpus_digest) == TEXT
    await bring()
    assert got[1] == got[0] and len(joiner.log.said("text fetched")) == 1


async def test_what_an_earlier_attempt_has_left_is_used(founders, joiner):
    founders[0].blobs.put(TEXT)
    begun = joiner.blobs.arriving_blob(GENESIS.corpus_digest, len(TEXT))
    begun.begin_with(memoryview(TEXT[:65536] + b"?" * (len(TEXT) - 65536)))
    asked = []
    take, begun_with = type(begun).take, begun.path.read_bytes()
    assert begun_with != TEXT

    def watched(self, leaves):
        asked.extend(index for index, _ in leaves)
        take(self, leaves)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(begun), "take", watched)
        file = await texts.bring_corpus(joiner.swarm, joiner.blobs, GENESIS, joiner.log)
    assert file.path.read_bytes() == TEXT and asked == [1]
    assert not begun.path.exists()


async def test_a_damaged_text_is_fetched_again(founders, joiner):
    founders[0].blobs.put(TEXT)
    path = (await texts.bring_corpus(joiner.swarm, joiner.blobs, GENESIS, joiner.log)).path
    path.write_bytes(TEXT[:-1] + b"?")
    restarted = Blobs(joiner.home.blobs, joiner.home.snapshots)
    file = await texts.bring_corpus(joiner.swarm, restarted, GENESIS, joiner.log)
    assert file.path.read_bytes() == TEXT and len(joiner.log.said("text fetched")) == 2


async def test_a_text_that_does_not_fit_on_the_disk_is_one_line(founders, joiner, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 20, 1 << 20, 100))
    with pytest.raises(SetUpError, match=f"text \\({len(TEXT)} bytes\\).*and 100 are free") as caught:
        await texts.bring_corpus(joiner.swarm, joiner.blobs, GENESIS, joiner.log)
    assert "make room" in caught.value.hint


async def test_the_tokenizer_comes_from_peers(founders, joiner):
    digest = founders[0].blobs.put(DOCUMENT)
    genesis = replace(GENESIS, tokenizer=TokenizerBlob(digest, len(DOCUMENT)), words=Words(2))
    tokenizer = await texts.bring_tokenizer(joiner.swarm, joiner.blobs, genesis, joiner.log)
    assert isinstance(tokenizer, JsonTokenizer) and tokenizer.to_json() == DOCUMENT
    assert digest in genesis.blobs and joiner.blobs.get(digest) == DOCUMENT
    assert isinstance(await texts.bring_tokenizer(joiner.swarm, joiner.blobs, GENESIS, joiner.log), ByteTokenizer)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"{}", "cannot be used: not a tokenizer.json"),
        (
            tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 9999}, unk_token="a")).to_str().encode(),
            "has 10000 words, and its model 256",
        ),
        (None, "does not hold the network's tokenizer"),
    ],
)
def test_a_tokenizer_of_another_vocabulary_is_one_line(tmp_path, document, says):
    blobs = blobs_in(tmp_path)
    digest = bytes(32) if document is None else blobs.put(document)
    genesis = make_genesis(identities(1), tokenizer=TokenizerBlob(digest, 2), words=Words(2))
    with pytest.raises(SetUpError, match=says) as caught:
        texts.tokenizer_of(genesis, blobs)
    assert caught.value.hint


def test_every_token_of_the_text_is_one_of_the_models(tmp_path):
    path, words = tmp_path / "text", Words(2)
    tokens = np.arange(60_000) % 256

    def genesis_of(data: bytes):
        path.write_bytes(data)
        return make_genesis(identities(1), words=words, corpus_digest=content.digest_of(data), corpus_bytes=len(data))

    good = genesis_of(words.pack(tokens))
    corpus = texts.open_corpus(good, CorpusFile(path, 120_000))
    assert isinstance(corpus, Corpus) and corpus.tokens == 60_000
    tokens[50_000] = 256
    bad = genesis_of(words.pack(tokens))
    with pytest.raises(CorpusError, match="a token 256, and the vocabulary 256"):
        texts.open_corpus(bad, CorpusFile(path, 120_000))
    assert texts.open_corpus(replace(bad, words=BYTES), CorpusFile(path, 120_000)).tokens == 120_000


@pytest.mark.parametrize("kind", ["words", "pairs"])
async def test_a_network_of_its_own_words_trains_and_is_joined(tmp_path, kind):
    """From files to a second node that has text and tokenizer from the first alone, and the same model."""
    text, tokenizer = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    text.write_bytes(TEXT if kind == "words" else b"".join(b"%d + 1 |%d\n" % (n, n + 1) for n in range(9000)))
    tokenizer.write_bytes(train([TEXT.decode()], 300))
    founder = Config(
        home=tmp_path / "founder",
        data=(text,),
        tokenizer=tokenizer,
        size=str(size_file(tmp_path)),
        listen=Endpoint("127.0.0.1", 0),
        repl=False,
        origins={"listen": "--listen", "data": "--data"},
    )
    home = Home(founder.home)
    genesis = initialise(home, founder)
    assert genesis.words.masked is (kind == "pairs")
    first = Node(home, founder, kit=Kit())
    async with living(first):
        await until(lambda: first.bound is not None)
        there = (Endpoint("127.0.0.1", first.bound.port),)
        second = make_node(make_home(tmp_path / "joiner", NEWCOMER), bootstrap=there)
        async with living(second):
            await until(lambda: ready(second) and height(second) >= 3)
            for node in (first, second):
                assert node.tokenizer.to_json() == tokenizer.read_bytes()
                assert node.view.status()["loss_unit"] == "nats per token"
            assert second.blobs.listed() >= genesis.blobs
            losses = [row["loss"] for row in first.store.rounds(3)]
            assert all(loss is not None and 0 < loss < 7 for loss in losses)
