"""A model leaves as a folder: whole or not at all, with the chain that certifies it, and checked against it; by model_commands.py, too."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.config import ModelConfig, TrainingConfig
from model.errors import InterchangeError
from model.interchange.reading import ModelFolder
from model.layout import Layout
from model.replica import Replica
from model.tokenizer import ByteTokenizer, tokenizer_from_json
from p2pnode import refounding
from p2pnode.errors import SetUpError
from p2pnode.exporting import CertifiedModel, export_model
from p2pnode.genesis import TokenizerBlob
from p2pnode.home import Home
from p2pnode.model_card import model_card
from p2pnode.store import Store
from p2pnode.verify import Wishes, verify
from p2pnode.verify import folder as verified_folder
from tests.p2pnode.little import Chain, identities, make_genesis
from tests.p2pnode.test_refounding import settings, survivor
from transport import content

NAMES = {
    "README.md",
    "chain.p2pnode",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(4).grow(3)


@pytest.fixture
def model(tmp_path: Path, chain: Chain):
    home = survivor(tmp_path / "home", chain, heights=3)
    store = Store(home.chain, chain.genesis.chain_id)
    yield CertifiedModel(chain.genesis, chain.state, chain.replica, ByteTokenizer(), store)
    store.close()


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: content.digest_of(path.read_bytes()) for path in folder.iterdir()}


def checked(folder: Path) -> str:
    return verify(folder, Wishes()).verdict()


def test_the_folder_holds_the_model_its_words_and_what_proves_it(
    tmp_path: Path, chain: Chain, model: CertifiedModel
) -> None:
    folder = tmp_path / "out" / "model"
    facts = export_model(folder, model)
    assert {path.name for path in folder.iterdir()} == NAMES
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "whoever may read one may read all"
    assert (facts["height"], facts["model_root"]) == (3, chain.state.model_root.hex())
    opened = ModelFolder.open(folder)
    theta = np.zeros(opened.values, np.float32)
    assert (
        opened.read(theta) == 0 and np.array_equal(theta, chain.replica.theta) and opened.config == chain.genesis.model
    )
    assert tokenizer_from_json((folder / "tokenizer.json").read_bytes()).encode("né") == list("né".encode())
    card = (folder / "README.md").read_text()
    for said in (chain.genesis.chain_id, chain.state.model_root, chain.state.block_hash):
        assert f"`{said.hex()}`" in card
    signers = [author for author, _ in chain.decided[-1][1].signers]
    assert len(signers) >= 3 and all(f"- `{author.hex()}`" in card for author in signers)
    certificate = card.partition("```\n" + chain.decided[-1][1].encode().hex()[:96])
    assert (
        certificate[1]
        and "".join(certificate[2].partition("```")[0].split()) == chain.decided[-1][1].encode().hex()[96:]
    )
    report = verify(folder, Wishes())
    assert (
        report.sound and report.heights == 3 and report.snapshots == 1 and report.model_root == chain.state.model_root
    )


def test_an_earlier_export_is_replaced_and_anything_else_is_left_alone(
    tmp_path: Path, chain: Chain, model: CertifiedModel
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    export_model(folder, model)
    first = digests(folder)
    (folder / "README.md").write_text("mine")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of a larger one")
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "model.safetensors").write_bytes(b"half of it")
    export_model(folder, model)
    assert digests(folder) == first
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SetUpError, match=r"holds something else \(notes.txt\)"):
        export_model(folder, model)
    assert (folder / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(SetUpError, match="holds another model"):
        export_model(other, model)
    with pytest.raises(SetUpError, match="is no folder"):
        export_model(other / "config.json", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model", "other"]


def test_one_export_at_a_time_writes_into_a_folder(tmp_path: Path, model: CertifiedModel, monkeypatch) -> None:
    import p2pnode.exporting as exporting

    def again(part: Path, *rest: object, **more: object) -> None:
        with pytest.raises(SetUpError, match="another export is writing there"):
            export_model(tmp_path / "model", model)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_model", again)
    with pytest.raises(SetUpError, match="no space left on device"):
        export_model(tmp_path / "model", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_what_transformers_cannot_say_is_refused_and_nothing_is_left(tmp_path: Path, model: CertifiedModel) -> None:
    strange = replace(model.genesis, model=replace(model.genesis.model, norm="layer"))
    with pytest.raises(InterchangeError, match="cannot be exported: norm is layer"):
        export_model(tmp_path / "model", replace(model, genesis=strange))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("momentum", [False, True])
def test_the_first_model_has_no_certificate_and_a_momentum_goes_with_it(tmp_path: Path, momentum: bool) -> None:
    training = TrainingConfig(momentum_numerator=7, momentum_shift=3) if momentum else TrainingConfig()
    config = ModelConfig(width=16, layers=1, heads=2, key_value_heads=1, feed_forward=24, context=128, experts=3)
    replica = Replica.initial(config, training, 3)
    if momentum:
        state = np.frombuffer(replica.read(0, replica.byte_length), np.uint8).copy()
        for place in Layout.of(config).tensors:
            moving = state[4 * replica.layout.values :].view(np.int32)
            moving[place.offset : place.offset + place.count] = np.arange(place.count) - 7
        replica = Replica.from_bytes(config, training, state.tobytes())
    root = content.content_digest(replica.leaves(), replica.byte_length)
    genesis = make_genesis(identities(1), model=config, training=training, model_root=root)
    store = Store(tmp_path / "chain.sqlite", genesis.chain_id)
    folder = tmp_path / "model"
    export_model(folder, CertifiedModel(genesis, genesis.state(), replica, ByteTokenizer(), store))
    store.close()
    assert {path.name for path in folder.iterdir()} == NAMES | ({"outer_momentum.safetensors"} if momentum else set())
    assert "None yet" in (folder / "README.md").read_text()
    assert checked(folder).startswith("sound: ")
    if momentum:
        (folder / "outer_momentum.safetensors").unlink()
        assert "outer_momentum.safetensors: No such file" in checked(folder)


def test_a_network_with_a_tokenizer_hands_it_on(tmp_path: Path, chain: Chain, model: CertifiedModel) -> None:
    document = json.loads(ByteTokenizer().to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"] = [{"id": 255, "content": "</s>", **flags}]
    del document["model"]["vocab"]["ÿ"]
    tokenizer = tokenizer_from_json(json.dumps(document).encode())
    blob = TokenizerBlob(content.digest_of(tokenizer.to_json()), len(tokenizer.to_json()))
    genesis = replace(chain.genesis, tokenizer=blob)
    store = Store(tmp_path / "other.sqlite", genesis.chain_id)
    folder = tmp_path / "model"
    export_model(folder, CertifiedModel(genesis, genesis.state(), chain.replicas[0], tokenizer, store))
    store.close()
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.to_json()
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 255
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "</s>"


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "model.safetensors: its root is "),
        ("model.safetensors", lambda data: data[:-4] + b"\0\0\0\x80", "1 values are -0.0 or denormal"),
        ("model.safetensors", lambda data: data[:-1], "model.safetensors: model.norm.weight ends at byte"),
        ("config.json", lambda data: data.replace(b'"rope_theta": 10000', b'"rope_theta": 10001'), "config.json: it describes"),
        ("tokenizer.json", lambda data: data.replace(b"1.0", b"2.0"), "tokenizer.json: it is not the network's"),
        ("chain.p2pnode", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its last 32 bytes are not the digest"),
        ("README.md", lambda data: b"of my own", ""),
    ],
)  # fmt: skip
def test_a_changed_file_is_found(tmp_path: Path, model: CertifiedModel, file: str, change, what: str) -> None:
    folder = tmp_path / "model"
    export_model(folder, model)
    path = folder / file
    path.write_bytes(change(path.read_bytes()))
    report = verify(folder, Wishes())
    assert report.sound == (not what) and what in report.verdict()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pipe_in_place_of_a_file_is_waited_for_by_nobody(tmp_path: Path, model: CertifiedModel, file: str) -> None:
    folder = tmp_path / "model"
    export_model(folder, model)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert checked(folder) == f"NOT SOUND: {file}: not a file"
    (folder / file).unlink()
    assert checked(folder).startswith("NOT SOUND: ")


def test_another_model_beside_the_chain_is_found(tmp_path: Path, chain: Chain, model: CertifiedModel) -> None:
    folder = tmp_path / "model"
    export_model(folder, model)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, folder / "model.safetensors")
    assert "model.safetensors: its root is " in checked(folder)
    assert verified_folder.is_export(folder) and not verified_folder.is_export(tmp_path / "home")


def test_a_home_that_does_not_run_gives_its_last_model(tmp_path: Path, chain: Chain, monkeypatch, capsys) -> None:
    from p2pnode import cli

    home = survivor(tmp_path / "home", chain, heights=3, lost=3)
    words = ["p2pnode", "export", str(tmp_path / "model"), "--home", str(home), "--json"]
    monkeypatch.setattr("sys.argv", words)
    assert cli.main() == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model_root"] == chain.states[2].model_root.hex()
    assert "holds no payloads beyond 2" in said.err
    assert checked(tmp_path / "model").startswith("sound: ")
    monkeypatch.setattr("sys.argv", [*words[:4], str(tmp_path / "nowhere")])
    assert cli.main() == 3
    assert "belongs to no network" in capsys.readouterr().err and not (tmp_path / "nowhere").exists()


def test_the_card_says_where_the_first_model_comes_from(chain: Chain, tmp_path: Path) -> None:
    home = survivor(tmp_path / "home", chain, heights=2)
    new = Home(tmp_path / "new")
    genesis, _ = refounding.refound(new, settings(new), source=home)
    assert f"of height 2 of network `{chain.genesis.chain_id.hex()}`" in model_card(genesis, genesis.state(), b"")
    imported = replace(chain.genesis, imported=True)
    assert "| first model | imported, `" in model_card(imported, imported.state(), b"")
    assert "drawn from the genesis" in model_card(chain.genesis, chain.genesis.state(), b"")
