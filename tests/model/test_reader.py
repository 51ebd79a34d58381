"""A model that reads: the replica's own memory, several texts, beginning anew."""

import pytest
import torch

from model.generation.reader import Reader
from tests.model.decoders import build, variant
from tests.model.texts import replica_of


def test_its_weights_are_the_replicas_memory_and_stay_as_they_are() -> None:
    replica = replica_of(variant("llama"))
    before = replica.read(0, replica.byte_length)
    reader = Reader(replica)
    assert reader._model.embedding.data_ptr() == replica.theta.ctypes.data
    assert not any(p.requires_grad for p in reader._model.parameters())
    reader.read([1, 2, 3])
    assert replica.read(0, replica.byte_length) == before


@pytest.mark.parametrize("cached", [True, False])
def test_it_says_what_the_model_says_of_the_last_token(cached: bool) -> None:
    config = variant("llama")
    replica = replica_of(config, gain=1)
    model, flat = build(config)
    with torch.no_grad():
        flat.values.copy_(torch.tensor(replica.theta))
        expected = model(torch.tensor([[5, 6, 7, 8]]))[0, -1]
    reader = Reader(replica, cached=cached)
    reader.read([5, 6])
    logits = reader.read([7, 8])
    assert logits.shape == (1, 256) and logits.dtype == torch.float32 and reader.seen == 4
    assert torch.allclose(logits[0], expected, atol=1e-6)
    reader.forget()
    assert reader.seen == 0 and torch.allclose(reader.read([5, 6, 7, 8])[0], expected, atol=1e-6)


@pytest.mark.parametrize("cached", [True, False])
def test_rows_go_on_by_themselves(cached: bool) -> None:
    replica = replica_of(variant("window"))
    reader = Reader(replica, cached=cached)
    reader.read([5, 6])
    reader.select(torch.tensor([0, 0, 0]))
    reader.read(torch.tensor([[1], [2], [3]]))
    reader.select(torch.tensor([2, 0]))
    found = reader.read(torch.tensor([[9], [9]]))
    for row, text in zip(found, ([5, 6, 3, 9], [5, 6, 1, 9]), strict=True):
        assert torch.allclose(row, Reader(replica).read(text)[0], atol=1e-3)
    reader.forget()
    assert reader.read([5]).shape == (1, 256)


def test_of_a_window_it_keeps_what_some_token_still_sees() -> None:
    reader = Reader(replica_of(variant("window", window=5, context=64)))
    for token in range(40):
        reader.read([token])
    assert reader._cache is not None
    held = reader._cache.layers[0].held
    assert held is not None and held.keys.shape[2] == 5
