"""A folder that transformers loads becomes a first model, which every node of the network then has."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from model.config import ModelConfig, TrainingConfig
from model.interchange.writing import write_model
from model.replica import Replica
from model.tokenizer import ByteTokenizer
from p2pnode import founding, importing, refounding
from p2pnode.config import Config
from p2pnode.errors import SetUpError
from p2pnode.genesis import Genesis, parse
from p2pnode.home import Home
from p2pnode.verify import Wishes, verify
from tests.p2pnode.machines import SMALL, TEXT, Machine
from tests.p2pnode.test_membership import command, go_on
from transport import content

SIZE = ModelConfig(**SMALL)
TRAINING = TrainingConfig()


def folder_of(directory: Path, config: ModelConfig = SIZE, *, tokenizer: bytes | None = None) -> Replica:
    """A folder as somebody else may hand it over; returns its model."""
    directory.mkdir()
    replica = Replica.initial(config, TRAINING, 7)
    write_model(directory, config, replica.theta, end=None)
    if tokenizer is not None:
        (directory / "tokenizer.json").write_bytes(tokenizer)
    return replica


def words(*, end: str = "</s>") -> bytes:
    """A tokenizer of bytes with one word more, for the end."""
    document = json.loads(ByteTokenizer().to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"] = [{"id": 256, "content": end, **flags}]
    return json.dumps(document).encode()


def settings(home: Home, tmp_path: Path, **changes: Any) -> Config:
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT)
    given = {name: f"--{name}" for name in (*changes, "data")}
    return Config(home=home.path, data=(text,), origins=given, **changes)


def founded(tmp_path: Path, folder: Path, said: list[str] | None = None, **changes: Any) -> tuple[Home, Genesis]:
    home = Home(tmp_path / "home")
    lines = [] if said is None else said
    config = settings(home, tmp_path, **changes)
    return home, founding.initialise(home, config, model_folder=folder, say=lines.append)


def refused(tmp_path: Path, folder: Path, **changes: Any) -> str:
    """One line, no network founded, and no blob left behind."""
    with pytest.raises(SetUpError) as caught:
        founded(tmp_path, folder, **changes)
    home = Home(tmp_path / "home")
    assert not home.initialised and founding.open_blobs(home).listed() == set()
    assert caught.value.hint and "\n" not in caught.value.message
    return caught.value.message.replace(str(folder), "DIR")


def test_the_folder_is_the_first_model_to_the_bit(tmp_path: Path) -> None:
    replica = folder_of(tmp_path / "model")
    said: list[str] = []
    home, genesis = founded(tmp_path, tmp_path / "model", said)
    assert genesis.imported and not genesis.first_model_is_drawn and genesis.model == SIZE and genesis.tokenizer is None
    assert genesis.model_root == content.content_digest(replica.leaves(), replica.byte_length)
    assert parse(home.genesis.read_bytes()) == genesis
    blobs = founding.open_blobs(home)
    assert blobs.listed() == genesis.blobs
    first = founding.first_model(genesis, blobs.get(genesis.model_root))
    assert first is not None and np.array_equal(first.theta, replica.theta) and first.momentum is None
    assert any("has no tokenizer.json: text is read as bytes" in line for line in said)
    last = refounding.last_model(home)
    assert last.state.height == 0 and np.array_equal(last.replica.theta, replica.theta)
    assert verify(home.path, Wishes(replay=True)).sound


def test_a_network_with_a_momentum_begins_at_rest(tmp_path: Path) -> None:
    replica = folder_of(tmp_path / "model")
    training = tmp_path / "training.json"
    training.write_text(json.dumps({"momentum_numerator": 7, "momentum_shift": 3}))
    home, genesis = founded(tmp_path, tmp_path / "model", training=training)
    first = founding.first_model(genesis, founding.open_blobs(home).get(genesis.model_root))
    assert first is not None and first.momentum is not None and not first.momentum.any()
    assert np.array_equal(first.theta, replica.theta)


def test_its_tokenizer_becomes_the_networks(tmp_path: Path) -> None:
    document = words()
    folder_of(tmp_path / "model", replace(SIZE, vocabulary=320), tokenizer=document)
    home, genesis = founded(tmp_path, tmp_path / "model")
    assert genesis.tokenizer is not None and genesis.model.vocabulary == 320
    blobs = founding.open_blobs(home)
    assert blobs.get(genesis.tokenizer.digest) == document and blobs.listed() == genesis.blobs
    text = np.frombuffer(blobs.get(genesis.corpus_digest) or b"", "<u2")
    assert bytes(text[: len(TEXT)].astype(np.uint8)) == TEXT and text[-1] == 256


def test_of_bytes_it_is_none_and_the_network_one_of_bytes(tmp_path: Path) -> None:
    folder_of(tmp_path / "model", tokenizer=ByteTokenizer().to_json())
    said: list[str] = []
    _, genesis = founded(tmp_path, tmp_path / "model", said)
    assert genesis.tokenizer is None and not any("tokenizer" in line for line in said)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_widened_and_what_no_replica_holds_is_said(tmp_path: Path, kind: torch.dtype) -> None:
    folder_of(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = {name: torch.tensor(values).to(kind) for name, values in load_file(path).items()}
    tensors["model.norm.weight"][3] = -0.0
    save_tensors(tensors, path)
    said: list[str] = []
    home, genesis = founded(tmp_path, tmp_path / "model", said)
    first = founding.first_model(genesis, founding.open_blobs(home).get(genesis.model_root))
    assert first is not None
    place = next(p for p in first.layout.tensors if p.name.endswith("q_proj.weight"))
    values = first.theta[place.offset : place.offset + place.count].reshape(place.shape)
    assert np.array_equal(values, tensors[place.name].float().numpy())
    assert any("1 values of" in line and "are 0 now" in line for line in said)


def test_what_does_not_fit_is_one_line_and_nothing_is_founded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder_of(folder, tokenizer=words())
    assert "DIR/tokenizer.json: 257 words, and config.json has a vocab_size of 256" in refused(tmp_path, folder)
    (folder / "tokenizer.json").write_text("{}")
    assert refused(tmp_path, folder).startswith("DIR/tokenizer.json: not a tokenizer.json")
    (folder / "tokenizer.json").unlink()
    other = tmp_path / "other.json"
    other.write_bytes(words())
    assert "DIR: a vocab_size of 256, and the tokenizer has 257 words" in refused(tmp_path, folder, tokenizer=other)
    (folder / "tokenizer.json").write_bytes(ByteTokenizer().to_json())
    assert "--tokenizer: DIR has another tokenizer.json" in refused(tmp_path, folder, tokenizer=other)
    training = tmp_path / "training.json"
    training.write_text(json.dumps({"sequence": 129}))
    assert "context is 128, but it is trained on 129" in refused(tmp_path, folder, training=training)
    monkeypatch.setattr(importing, "memory_problem", lambda size: f"{size} bytes are too many")
    assert "bytes are too many" in refused(tmp_path, folder)
    monkeypatch.undo()
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"model.norm.weight": np.full(32, np.nan, np.float32)}, path)
    assert refused(tmp_path, folder) == "DIR/model.safetensors: model.norm.weight holds NaN or infinity"
    save_file(tensors, path)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(SetUpError, match="empty"):
        home = Home(tmp_path / "home")
        config = replace(settings(home, tmp_path), data=(tmp_path / "empty.txt",))
        founding.initialise(home, config, model_folder=folder)
    assert founding.open_blobs(Home(tmp_path / "home")).listed() == set()
    assert refused(tmp_path, tmp_path / "nowhere").endswith("there is no such folder")


def test_a_joiner_fetches_the_model_and_an_export_of_it_is_the_folder_again(
    machines: Callable[[str], Machine], tmp_path: Path
) -> None:
    """Two nodes on real sockets: one founded on the folder, the other knows an address alone. Then both learn, and the model leaves."""
    replica = folder_of(tmp_path / "model", tokenizer=ByteTokenizer().to_json())
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT)
    one, two = machines("one"), machines("two")
    done = command(one, "init", "--from", str(tmp_path / "model"), "--data", str(text))
    assert done.returncode == 0, done.stderr
    one.start("--listen", "127.0.0.1:0", "--no-train")
    status = one.until(lambda s: s["role"] == "member")
    assert status["model_root"] == content.content_digest(replica.leaves(), replica.byte_length).hex()
    two.start("--listen", "127.0.0.1:0", "--bootstrap", str(status["listen"]), "--no-train")
    two.until(lambda s: s["model_root"] == status["model_root"] and s["role"] != "joining")

    facts = two.client.export(tmp_path / "again")
    assert (facts["height"], facts["model_root"]) == (0, status["model_root"])
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    one.client.train()
    go_on(2, one, two)
    done = command(one, "export", str(tmp_path / "later"), "--json")  # while it trains
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["height"] >= 2 and one.roots()[facts["height"]] == facts["model_root"]
    report = verify(tmp_path / "later", Wishes())
    assert report.sound and report.heights == facts["height"] and report.snapshots == 1
    for node in (one, two):
        assert node.end(signal.SIGINT) == 0
    done = command(two, "export", str(tmp_path / "offline"), "--json")
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "offline", Wishes()).sound
