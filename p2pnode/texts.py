"""A network's text and its tokenizer on this node: kept as blobs, fetched from peers into files, opened for training.

What it is: where founding, joining and starting get them. What it is not: reading what ``--data`` names (``model/text``), or
deciding whether it is the network's (``founding``). The text is never in memory as a whole, the tokenizer always.
"""

from pathlib import Path

import trio

import transport
from model.data import Corpus, CorpusFile
from model.errors import ModelError
from model.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from_json
from p2pnode.arriving import Arriving
from p2pnode.blobs import Blobs
from p2pnode.errors import SetUpError, why
from p2pnode.genesis import Genesis
from p2pnode.logs import Logger
from transport.machine import in_thread

ASK_AGAIN_SECONDS = 0.5  # a line in the log for each time is no flood
_HINT = "its founder gave what cannot be trained on; another --home joins another network"


async def bring_corpus(swarm: transport.Swarm, blobs: Blobs, genesis: Genesis, log: Logger) -> CorpusFile:
    """The network's text: on our disk, else from peers, leaf by leaf against its digest. Waits until somebody has it.

    Raises:
        SetUpError: it does not fit on this disk.
    """
    path = await bring(swarm, blobs, genesis.corpus_digest, genesis.corpus_bytes, name="text", log=log)
    return CorpusFile(path, genesis.corpus_bytes)


async def bring_tokenizer(swarm: transport.Swarm, blobs: Blobs, genesis: Genesis, log: Logger) -> Tokenizer:
    """What the network's tokens mean, in the same way.

    Raises:
        SetUpError: it cannot be used, or does not fit the network's model.
    """
    if genesis.tokenizer is not None:
        await bring(swarm, blobs, genesis.tokenizer.digest, genesis.tokenizer.length, name="tokenizer", log=log)
    return await in_thread(tokenizer_of, genesis, blobs)


def tokenizer_of(genesis: Genesis, blobs: Blobs) -> Tokenizer:
    """The network's tokenizer, from this home. Blocks.

    Raises:
        SetUpError: it is not here, cannot be used, or does not fit the network's model.
    """
    if genesis.tokenizer is None:
        return ByteTokenizer()
    document = blobs.get(genesis.tokenizer.digest)
    if document is None:
        raise SetUpError("this home does not hold the network's tokenizer", "start the node: it fetches it from peers")
    try:
        tokenizer = tokenizer_from_json(document)
    except ModelError as problem:
        raise SetUpError(f"the network's tokenizer cannot be used: {problem.message}", _HINT) from None
    if tokenizer.vocabulary > genesis.model.vocabulary:
        raise SetUpError(
            f"the network's tokenizer has {tokenizer.vocabulary} words, and its model {genesis.model.vocabulary}", _HINT
        )
    return tokenizer


def open_corpus(genesis: Genesis, text: CorpusFile) -> Corpus:
    """The text to train on, every token of it one of the model's. Reads it once. Raises CorpusError."""
    corpus = Corpus(text, genesis.training.sequence, words=genesis.words)
    if genesis.words.tokens_max > genesis.model.vocabulary:
        corpus.check(genesis.model.vocabulary)
    return corpus


async def bring(swarm: transport.Swarm, blobs: Blobs, digest: bytes, length: int, *, name: str, log: Logger) -> Path:
    """The file of a blob that every node of the network keeps; what an earlier attempt has left of it is used.

    Raises:
        SetUpError: it does not fit on this disk, or the disk does not take it.
    """
    while True:
        path = await in_thread(blobs.checked_file, digest)
        if path is not None:
            return path
        part = blobs.arriving_blob(digest, length)
        try:
            await in_thread(part.open)
            await in_thread(blobs.check_room, length - part.held())
            await _fetch(swarm, part)
            await in_thread(blobs.adopt, part)
        except transport.RequestFailed as problem:
            log.info(f"waiting for the {name}", reason=problem.reason)
            await trio.sleep(ASK_AGAIN_SECONDS)
        except OSError as problem:
            hint = "make room, or choose a --home on another disk; what has arrived is kept"
            raise SetUpError(f"the network's {name} ({length} bytes): {why(problem)}", hint) from None
        else:
            log.info(f"{name} fetched", bytes=length, digest=digest.hex()[:16])
        finally:
            part.close()


async def _fetch(swarm: transport.Swarm, part: Arriving) -> None:
    """The leaves that the file lacks, from whoever is connected, while it is served to others who fetch it."""

    def holders() -> list[bytes]:
        return [peer.key for peer in swarm.peers()]

    async def read(first: int, count: int) -> bytes | None:
        return await in_thread(part.read, first, count)

    hashes = await swarm.fetch(part.digest, part.length, holders=holders, sink=part.take, blocking=True, leaves=())
    missing = await in_thread(part.missing, hashes)
    await swarm.fetch(
        part.digest,
        part.length,
        holders=holders,
        sink=part.take,
        blocking=True,
        leaves=missing,
        hashes=hashes,
        read=read,
    )
