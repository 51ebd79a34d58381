"""The file format: what is written the library reads, what the library writes is read, and every lie about offsets is found."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from safetensors.torch import save_file

from model.errors import InterchangeError
from model.interchange import safetensors_file
from model.interchange.safetensors_file import SafetensorsFile
from model.limits import TENSOR_HEADER_BYTES_MAX
from tests.model.interchange.folders import header_of, rewrite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_the_library_reads_what_we_write(path: Path) -> None:
    first, second = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(5, dtype=np.int32)
    safetensors_file.write(path, [("b", first), ("a", second)])
    found = load_file(path)
    assert np.array_equal(found["b"], first) and np.array_equal(found["a"], second) and found["a"].dtype == np.int32
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    opened, out = SafetensorsFile.open(path), np.zeros(5, np.int32)
    opened.read("a", out)
    assert np.array_equal(out, second) and opened.entries["b"].shape == (3, 4)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_sixteen_bits_become_the_same_thirty_two(path: Path, kind: torch.dtype) -> None:
    """All values of sixteen bits that are numbers, and as many of thirty-two."""
    every = (
        torch.arange(1 << 16, dtype=torch.int32)
        .to(torch.int16)
        .view(torch.float16 if kind == torch.float16 else torch.bfloat16)
    )
    values = every[every.isfinite()].to(kind)
    save_file({"x": values}, path)
    out = np.empty(len(values), np.float32)
    SafetensorsFile.open(path).read("x", out)
    assert np.array_equal(out.view(np.uint32), values.float().numpy().view(np.uint32))


GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
A, B = GOOD["a"], GOOD["b"]


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        ({"a": A, "b": B | {"data_offsets": [16, 24]}}, bytes(24), "b overlaps a"),
        ({"a": A, "b": B | {"data_offsets": [0, 8]}}, bytes(24), "a overlaps b"),
        ({"a": A, "b": B | {"data_offsets": [28, 36]}}, bytes(36), "4 bytes between a and b belong to no tensor"),
        ({"a": A | {"data_offsets": [4, 28]}}, bytes(28), "4 bytes between the header and a belong to no tensor"),
        ({"a": A, "b": B}, bytes(31), "b ends at byte 32 of its data, which has 31"),
        ({"a": A, "b": B}, bytes(33), "1 bytes at its end belong to no tensor"),
        ({"a": A | {"shape": [2, 2]}}, bytes(24), "a has 24 bytes; its shape takes 16"),
        ({"a": A | {"shape": [1 << 47, 1 << 47, 1 << 47]}}, bytes(24), "a has 24 bytes; its shape takes"),
        ({"a": A | {"data_offsets": [24, 0]}}, bytes(24), "24 bytes between the header and a"),
        ({"a": A | {"data_offsets": [0, -24]}}, bytes(24), "'a' has no two data_offsets"),
        ({"a": A | {"data_offsets": [0, 24.0]}}, bytes(24), "'a' has no two data_offsets"),
        ({"a": A | {"data_offsets": [0, 1 << 63]}}, bytes(24), "'a' has no two data_offsets"),
        ({"a": A | {"shape": [True]}}, bytes(24), "'a' has no shape"),
        ({"a": A | {"shape": [1] * 9}}, bytes(24), "'a' has no shape"),
        ({"a": A | {"dtype": "F31"}}, bytes(24), "'a' is of an unknown type 'F31'"),
        ({"a": A | {"more": 1}}, bytes(24), "'a' has no dtype, shape and data_offsets"),
        ({"a": []}, bytes(24), "'a' has no dtype"),
        ([], b"", "its header is none: no object"),
        (b"{", b"", "its header is none"),
        (b"\xff\xfe", b"", "its header is none"),
        (b"[" * 100_000, b"", "its header is none"),
        (b'{"a":1,"a":2}', b"", "a name stands there twice"),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}', b"", "its header is none"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(path: Path, header: Any, data: bytes, what: str) -> None:
    rewrite(path, header, data)
    with pytest.raises(InterchangeError) as caught:
        SafetensorsFile.open(path)
    assert caught.value.message.startswith(f"{path}: ") and what in caught.value.message
    assert len(caught.value.message) < len(str(path)) + 300


@pytest.mark.parametrize("length", [0, 7, 8, 9, 1000, (1 << 24) + 1, (1 << 63) - 1, (1 << 64) - 1])
def test_a_length_that_lies_is_refused_before_anything_is_read(path: Path, length: int) -> None:
    rewrite(path, GOOD, bytes(32), length=length)
    with pytest.raises(InterchangeError, match="header"):
        SafetensorsFile.open(path)
    path.write_bytes(b"short")
    with pytest.raises(InterchangeError, match="longer than the file"):
        SafetensorsFile.open(path)


def test_a_header_is_no_longer(path: Path) -> None:
    text = json.dumps(GOOD).encode()
    rewrite(path, text.ljust(TENSOR_HEADER_BYTES_MAX), bytes(32))
    assert SafetensorsFile.open(path).entries.keys() == {"a", "b"}
    rewrite(path, text.ljust(TENSOR_HEADER_BYTES_MAX + 1), bytes(32))
    with pytest.raises(InterchangeError, match=f"at most {TENSOR_HEADER_BYTES_MAX} are allowed"):
        SafetensorsFile.open(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, what in [
        ("pipe", "not a file"),
        ("link", "not a file"),
        ("folder", "not a file"),
        ("none", "No such file"),
    ]:
        with pytest.raises(InterchangeError, match=what):
            SafetensorsFile.open(tmp_path / name)


def test_a_file_that_became_shorter_is_refused(path: Path) -> None:
    safetensors_file.write(path, [("a", np.zeros(10, np.float32))])
    opened = SafetensorsFile.open(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InterchangeError, match="it ends within a"):
        opened.read("a", np.zeros(10, np.float32))


@given(st.data())
def test_what_is_taken_the_library_takes_too(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A header in which some numbers have changed: never taken where the library refuses it."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(
        save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16), "c": np.zeros(0, np.float32)})
    )
    header, body = header_of(path)
    for _ in range(data.draw(st.integers(1, 3))):
        entry = header[data.draw(st.sampled_from("abc"))]
        values = entry[data.draw(st.sampled_from(["shape", "data_offsets"]))]
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(
            st.sampled_from([0, 1, 2, 3, 4, 6, 24, 32, 1 << 40])
        )
    rewrite(path, header, body)
    try:
        with safe_open(path, framework="np"):
            library = True
    except SafetensorError:
        library = False
    try:
        SafetensorsFile.open(path)
    except InterchangeError:
        return
    assert library
