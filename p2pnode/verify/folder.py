"""A model that was exported, against the chain beside it: its parameters have the certified root, and its words are the network's.

The card is text for people and is not compared: whoever publishes a model may say more of it.
"""

from pathlib import Path

import numpy as np

from model.errors import InterchangeError
from model.interchange.reading import TOKENIZER, ModelFolder
from model.interchange.safetensors_file import SafetensorsFile
from model.interchange.tensor_names import pieces
from model.replica import Replica
from model.tokenizer import ByteTokenizer
from p2pnode.genesis import Genesis
from p2pnode.model_card import CHAIN
from p2pnode.verify.chain import VerifiedChain
from p2pnode.verify.report import Report
from transport import content

MOMENTUM = "outer_momentum.safetensors"


def is_export(path: Path) -> bool:
    """Whether this is a folder of `p2pnode export`."""
    return (path / CHAIN).is_file() and not (path / "genesis.json").exists()


def check_model(path: Path, chain: VerifiedChain, report: Report) -> None:
    """Whether the folder holds the model at the end of its chain."""
    genesis = chain.genesis
    try:
        folder = ModelFolder.open(path)
        if folder.config != genesis.model:
            report.fault("config.json", "it describes another decoder than the genesis")
            return
        state, turned = _state(folder, genesis, path)
    except InterchangeError as problem:
        report.fault(*_place_and_fault(problem, path))
        return
    root: bytes = content.digest_of(state.data)
    if turned:
        report.fault("model.safetensors", f"{turned} values are -0.0 or denormal, and no certified model holds any")
    elif root != chain.state.model_root:
        certified = chain.state.model_root.hex()[:16]
        report.fault("model.safetensors", f"its root is {root.hex()[:16]}, certified is {certified}")
    else:
        report.snapshots += 1
    _check_tokenizer(folder, genesis, report)


def _state(folder: ModelFolder, genesis: Genesis, path: Path) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint8]], int]:
    """The canonical bytes, and how many values had to be changed to be canonical."""
    state = np.zeros(Replica.bytes_of(genesis.model, genesis.training), np.uint8)
    turned = folder.read(state[: 4 * folder.values].view(np.float32))
    momentum = state[4 * folder.values :].view(np.int32)
    if len(momentum):
        file = SafetensorsFile.open(path / MOMENTUM)
        for piece in pieces(genesis.model):
            entry = file.entries.get(piece.name)
            if entry is None or (entry.dtype, entry.shape) != ("I32", piece.shape):
                raise InterchangeError(f"{path}/{MOMENTUM}: {piece.name} is not in it, or is of another form")
            file.read(piece.name, momentum[piece.offset : piece.offset + piece.count])
    return state, turned


def _place_and_fault(problem: InterchangeError, path: Path) -> tuple[str, str]:
    name, _, what = problem.message.removeprefix(f"{path}/").partition(": ")
    return name, what or problem.message


def _check_tokenizer(folder: ModelFolder, genesis: Genesis, report: Report) -> None:
    try:
        document = folder.tokenizer()
    except InterchangeError as problem:
        report.fault(*_place_and_fault(problem, folder.path))
        return
    if document is None:
        report.fault(TOKENIZER, "no such file")
        return
    digest = content.digest_of(ByteTokenizer().to_json()) if genesis.tokenizer is None else genesis.tokenizer.digest
    if content.digest_of(document) != digest:
        report.fault(TOKENIZER, "it is not the network's")
