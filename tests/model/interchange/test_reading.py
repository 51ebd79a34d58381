"""Folders that do not fit: the first thing that is wrong is one line, before any memory is taken for weights."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import InterchangeError
from model.interchange import reading
from model.interchange.reading import ModelFolder, memory_problem
from model.interchange.tensor_names import pieces
from model.layout import Layout
from model.limits import INDEX_BYTES_MAX, SHARDS_MAX
from tests.model.decoders import variant
from tests.model.interchange.folders import drawn, header_of, read, rewrite, written

DENSE, EXPERTS = variant("untied"), variant("experts")
NORM = "model.norm.weight"


def refused(directory: Path) -> str:
    with pytest.raises(InterchangeError) as caught:
        read(directory)
    assert caught.value.hint and "\n" not in caught.value.message and len(caught.value.message) < 500
    return caught.value.message.replace(f"{directory}", "DIR")


def with_tensors(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def config_says(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "dense", DENSE)
    return tmp_path / "dense"


def bad(value: float) -> Callable[[dict[str, Any]], object]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[NORM] = tensors[NORM].copy()
        tensors[NORM][-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop(NORM), f"DIR: {NORM} is missing, which the model that config.json describes has"),
        (lambda t: t.update(extra=t[NORM]), "DIR/model.safetensors: extra is no tensor of the model that config.json describes"),
        (lambda t: t.update({NORM: t[NORM][:-1]}), f"DIR/model.safetensors: {NORM} is [23], and config.json makes it [24]"),
        (lambda t: t.update({NORM: t[NORM][None]}), f"DIR/model.safetensors: {NORM} is [1, 24], and config.json makes it [24]"),
        (lambda t: t.update({NORM: t[NORM].astype(np.float64)}), f"{NORM} is F64; F32, BF16 and F16 can be read"),
        (lambda t: t.update({NORM: t[NORM].astype(np.int32)}), f"{NORM} is I32; F32, BF16 and F16 can be read"),
        (bad(np.nan), f"DIR/model.safetensors: {NORM} holds NaN or infinity"),
        (bad(-np.inf), f"DIR/model.safetensors: {NORM} holds NaN or infinity"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(folder: Path, change: Any, what: str) -> None:
    with_tensors(folder, change)
    assert what in refused(folder)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"hidden_size": 48, "head_dim": 8}, "model.embed_tokens.weight is [259, 24], and config.json makes it [259, 48]"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight is no tensor of the model"),
        ({"tie_word_embeddings": True}, "lm_head.weight is not model.embed_tokens.weight, and config.json says"),
        ({"model_type": "qwen2"}, "DIR/config.json: model_type is 'qwen2'"),
        ({"vocab_size": 1 << 18, "hidden_size": 16384, "head_dim": None, "num_attention_heads": 64,
          "num_key_value_heads": 64, "num_hidden_layers": 2, "intermediate_size": 65536}, "and config.json makes it [262144, 16384]"),
        ({"num_hidden_layers": 256, "hidden_size": 16384, "head_dim": None, "num_attention_heads": 64,
          "num_key_value_heads": 64, "intermediate_size": 65536}, "parameters, at most"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit(folder: Path, values: dict[str, Any], what: str) -> None:
    """Also one that would take a hundred gigabytes: nothing of the sort is asked of the system."""
    config_says(folder, **values)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert what in refused(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_config_that_is_none(folder: Path) -> None:
    path = folder / "config.json"
    for data, what in [
        (b"{", "not JSON"), (b"[]", "not a JSON object"), (b"\xff", "not JSON"), (b"[" * 50_000, "not JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not JSON"), (b" " * (1 << 17), "larger than 65536 bytes"),
    ]:  # fmt: skip
        path.write_bytes(data)
        assert refused(folder).startswith(f"DIR/config.json: {what}")
    path.unlink()
    assert refused(folder) == "DIR/config.json: No such file or directory"
    with pytest.raises(InterchangeError, match="there is no such folder"):
        ModelFolder.open(path)


def test_a_folder_of_pickles_is_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        InterchangeError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"
    ) as caught:
        ModelFolder.open(folder)
    assert "pickles, which may run code" in caught.value.hint


def test_a_tied_head_may_stand_there_again_if_it_is_the_same(tmp_path: Path) -> None:
    config = variant("llama")
    theta = written(tmp_path, config)
    head = "lm_head.weight"
    with_tensors(
        tmp_path,
        lambda t: t.update(
            {head: t["model.embed_tokens.weight"].copy(), "model.layers.0.self_attn.rotary_emb.inv_freq": t[NORM]}
        ),
    )
    assert np.array_equal(read(tmp_path)[1], theta)
    with_tensors(tmp_path, lambda t: t.update({head: t[head] + np.float32(1)}))
    assert "lm_head.weight is not model.embed_tokens.weight" in refused(tmp_path)
    with_tensors(tmp_path, lambda t: t.update({head: t[head][1:]}))
    assert "lm_head.weight is [255, 24]" in refused(tmp_path)


def test_numbers_that_no_replica_holds_become_zero_and_are_counted(folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors[NORM] = np.array([-0.0, 1e-40, -1e-45, 0.0, *tensors[NORM][4:]], np.float32)

    with_tensors(folder, change)
    _, theta, turned = read(folder)
    place = Layout.of(DENSE).tensors[-2]
    assert place.name == NORM and turned == 3
    assert not theta[place.offset : place.offset + 4].view(np.uint32).any()


# --- shards ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    written(tmp_path / "sharded", EXPERTS, shard_bytes=20_000)
    return tmp_path / "sharded"


def index_says(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / reading.INDEX
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name",
    ["../dense/model.safetensors", "/etc/passwd", "..", "a/../../x.safetensors", "sub/x.safetensors", ".hidden.safetensors",
     "x.safetensors\0", "model.bin", "", "C:\\x.safetensors", "x" * 300 + ".safetensors", "\n.safetensors"],
)  # fmt: skip
def test_an_index_leads_nowhere_else(sharded: Path, name: str) -> None:
    index_says(sharded, lambda i: i["weight_map"].update({NORM: name}))
    assert "is no name of a file beside it" in refused(sharded)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda i: i.pop("weight_map"), "it has no weight_map of tensors to files"),
        (lambda i: i.update(weight_map=[1]), "it has no weight_map of tensors to files"),
        (lambda i: i["weight_map"].update({NORM: 1}), "it has no weight_map of tensors to files"),
        (lambda i: i["weight_map"].update({NORM: "a.safetensors"}), "DIR/a.safetensors: No such file or directory"),
        (lambda i: i["weight_map"].update({NORM: i["weight_map"]["model.embed_tokens.weight"]}), f"{NORM} is in model-"),
        (lambda i: i["weight_map"].pop(NORM), "and model.safetensors.index.json says None"),
        (lambda i: i["weight_map"].update(more=i["weight_map"][NORM]), "more is not in model-"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit(sharded: Path, change: Any, what: str) -> None:
    index_says(sharded, change)
    assert what in refused(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    files = sorted(sharded.glob("*.safetensors"))
    save_file(load_file(files[0]) | {NORM: np.zeros(24, np.float32)}, files[0])
    assert f"{NORM} is in {files[0].name}" in refused(sharded)


def test_an_expert_that_is_missing_is_named(sharded: Path) -> None:
    name = "model.layers.1.block_sparse_moe.experts.4.w2.weight"
    assert name in {piece.name for piece in pieces(EXPERTS)}
    config_says(sharded, num_local_experts=6)
    assert "block_sparse_moe.gate.weight is [5, 24], and config.json makes it [6, 24]" in refused(sharded)


def test_experts_may_be_joined_as_transformers_has_them_in_memory(tmp_path: Path) -> None:
    theta = written(tmp_path, EXPERTS)
    joined = {p.name: theta[p.offset : p.offset + p.count].reshape(p.shape) for p in pieces(EXPERTS, joined=True)}
    save_file(joined, tmp_path / "model.safetensors")
    assert np.array_equal(read(tmp_path)[1], theta)
    assert {piece.name for piece in pieces(EXPERTS, joined=True)} == {
        place.name for place in Layout.of(EXPERTS).tensors
    }


def test_an_index_is_no_longer_and_names_no_more_files(sharded: Path) -> None:
    path = sharded / reading.INDEX
    text = path.read_bytes()
    path.write_bytes(text.ljust(INDEX_BYTES_MAX))
    assert read(sharded)[0] == EXPERTS
    path.write_bytes(text.ljust(INDEX_BYTES_MAX + 1))
    assert refused(sharded) == f"DIR/{reading.INDEX}: larger than {INDEX_BYTES_MAX} bytes"
    names = {f"x{number}": f"{number}.safetensors" for number in range(SHARDS_MAX + 1)}
    path.write_text(json.dumps({"weight_map": names}))
    assert f"{SHARDS_MAX + 1} files, at most {SHARDS_MAX} are allowed" in refused(sharded)
    names.popitem()
    path.write_text(json.dumps({"weight_map": names}))
    assert refused(sharded) == "DIR/0.safetensors: No such file or directory"


def test_the_names_of_tensors_are_shown_within_bounds(folder: Path) -> None:
    header, data = header_of(folder / "model.safetensors")
    header["x" * 10_000] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    rewrite(folder / "model.safetensors", header, data)
    assert "xxx is no tensor of the model" in refused(folder)


def test_the_tokenizer_of_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelFolder.open(folder).tokenizer() is None
    (folder / "tokenizer.json").write_bytes(b"{}")
    assert ModelFolder.open(folder).tokenizer() == b"{}"
    monkeypatch.setattr(reading, "TOKENIZER_BYTES_MAX", 1)
    with pytest.raises(InterchangeError, match="larger than 1 bytes"):
        ModelFolder.open(folder).tokenizer()


def test_links_are_followed_as_download_caches_have_them(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert np.array_equal(read(linked)[1], drawn(DENSE))
    shutil.rmtree(folder)
    assert "No such file" in refused(linked)


def test_what_no_machine_holds_is_said_before_it_is_tried() -> None:
    assert memory_problem(1 << 20) is None
    problem = memory_problem(1 << 60)
    assert problem is not None and "1073741824.0 GiB as float32, and this machine has" in problem
