"""`p2pnode export`: the agreed model as a folder that transformers loads, with the chain that certifies it.

    config.json generation_config.json model*.safetensors       model/interchange
    tokenizer.json tokenizer_config.json                        the network's tokenizer
    chain.p2pnode                                               genesis, blocks, last certificate: docs/chain-file.md
    outer_momentum.safetensors                                  only where the network has one, for the root covers it
    README.md                                                   the model card

What it is: what stands in the folder, and that it appears whole or not at all. What it is not: the check of such a folder
(``verify/folder.py``), or the way back (``importing``).

Rules for editing: blocking; a running node calls it off the event loop, with values that never change. Everything but the card is a
function of the network's chain alone, so two nodes that export one height write the same bytes (but for the last certificate).
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import consensus
from model.config import ModelConfig
from model.interchange import safetensors_file
from model.interchange.reading import TOKENIZER
from model.interchange.tensor_names import pieces
from model.interchange.writing import CONFIG, GENERATION, INDEX, WEIGHTS, write_json, write_model
from model.replica import Replica
from model.tokenizer import Tokenizer
from p2pnode.errors import SetUpError, why
from p2pnode.files import FILES, sync_at
from p2pnode.genesis import Genesis
from p2pnode.model_card import CHAIN, model_card
from p2pnode.store import Store
from p2pnode.verify import chainfile
from p2pnode.verify.chain import Row
from p2pnode.verify.folder import MOMENTUM
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX

TOKENIZER_CONFIG = "tokenizer_config.json"
CARD = "README.md"
_OURS = {CONFIG, GENERATION, WEIGHTS, INDEX, TOKENIZER, TOKENIZER_CONFIG, CHAIN, MOMENTUM, CARD}
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True, slots=True)
class CertifiedModel:
    """The model after ``state.height``, and the chain that leads there (``store`` may hold more)."""

    genesis: Genesis
    state: consensus.ChainState
    replica: Replica
    tokenizer: Tokenizer
    store: Store


def export_model(folder: Path, model: CertifiedModel) -> dict[str, Any]:
    """Write the folder, or replace an earlier export in it; returns what is in it, for people.

    Raises:
        SetUpError: something else stands there, or it cannot be written.
        InterchangeError: transformers has no such decoder.
    """
    folder = folder.absolute()
    _check_free(folder)
    try:
        with _in_place_of(folder) as part:
            rows = list(_rows(model.store, model.state))
            _write(part, model, rows)
            size = sum(path.stat().st_size for path in part.iterdir())
    except OSError as problem:
        raise SetUpError(f"{folder}: {why(problem)}", "nothing was written; name a folder that can be") from None
    state = model.state
    return {
        "folder": str(folder),
        "network": model.genesis.chain_id.hex(),
        "height": state.height,
        "model_root": state.model_root.hex(),
        "block": state.block_hash.hex() if state.height else None,
        "parameters": model.genesis.model.parameters,
        "bytes": size,
    }


def _write(part: Path, model: CertifiedModel, rows: list[Row]) -> None:
    config, end = model.genesis.model, model.tokenizer.end
    write_model(part, config, model.replica.theta, end=end)
    if model.replica.momentum is not None:
        momentum = model.replica.momentum
        tensors = [(p.name, momentum[p.offset : p.offset + p.count].reshape(p.shape)) for p in pieces(config)]
        safetensors_file.write(part / MOMENTUM, tensors)
    (part / TOKENIZER).write_bytes(model.tokenizer.to_json())
    write_json(part / TOKENIZER_CONFIG, tokenizer_config(config, model.tokenizer))
    chainfile.write(part / CHAIN, genesis=model.genesis, height=model.state.height, rows=iter(rows))
    certificate = rows[-1].certificate if rows else b""
    assert isinstance(certificate, bytes)
    (part / CARD).write_text(model_card(model.genesis, model.state, certificate), encoding="utf-8")
    (part / CHAIN).chmod(
        (part / CARD).stat().st_mode & 0o777
    )  # a model is there to be handed on; a home's files are not


def tokenizer_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers wants to know beside ``tokenizer.json``: to take it as it is."""
    document: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.end is not None:
        document["eos_token"] = tokenizer.decode([tokenizer.end])
    return document


def _rows(store: Store, state: consensus.ChainState) -> Iterator[Row]:
    """The chain up to this state. A block is in the file before its model is anybody's."""
    height = 0
    while height < state.height:
        found = store.block_rows(height + 1, min(BLOCKS_PER_REQUEST_MAX, state.height - height))
        if not found:
            raise SetUpError(f"the chain file holds no block {height + 1}", "p2pnode verify says what is wrong with it")
        for block, certificate in found:
            height += 1
            yield Row(height, block, certificate)


# --- the folder -----------------------------------------------------------------------------------------------------------------


def _check_free(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise SetUpError(f"{folder}: is no folder", "name a new one")
    names = sorted(path.name for path in folder.iterdir())
    strange = [name for name in names if name not in _OURS and not _SHARD.fullmatch(name)]
    if strange:
        raise SetUpError(f"{folder}: holds something else ({strange[0]})", "name a new folder, or an earlier export")
    if names and CHAIN not in names:
        raise SetUpError(f"{folder}: holds another model, and no export of a chain's", "name a new folder")


@contextmanager
def _in_place_of(folder: Path) -> Iterator[Path]:
    """A folder beside it to write into, which takes its place at the end, whole and durable."""
    files = FILES.get()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{what}") for what in ("part", "old"))
    part.mkdir(exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetUpError(f"{folder}: another export is writing there", "wait for it, or name another") from None
        for left in part.iterdir():  # by one that was killed
            left.unlink()
        try:
            yield part
            for path in (*part.iterdir(), part):
                sync_at(files, path)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
            sync_at(files, folder.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(descriptor)
