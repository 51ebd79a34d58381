"""Positions: what a rotation keeps, where a text may start, and where it must end."""

import math

import pytest
import torch

from model.errors import ModelError
from model.positions import RotaryPositions, frequencies, positions_of
from tests.model.decoders import build, variant

KINDS = ["llama", "rope-scaled", "learned-positions", "sinusoidal-positions"]


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rotary = RotaryPositions(variant("llama"))
    size = variant("llama").head_size
    query, key = torch.randn(2, size, generator=torch.Generator().manual_seed(1))
    queries, keys = (rotary.rotate(x.expand(1, 1, 16, -1), 0)[0, 0] for x in (query, key))
    scores = queries @ keys.T
    for distance in range(8):
        assert torch.allclose(scores.diagonal(-distance), scores[distance, 0], atol=1e-5)
    assert torch.allclose(queries.norm(dim=-1), query.norm(), atol=1e-5), "a rotation keeps lengths"


@pytest.mark.parametrize("name", KINDS)
def test_a_text_may_start_anywhere(name: str) -> None:
    config = variant(name)
    _, flat = build(config)
    positions = positions_of(config, flat.weights)
    stream = torch.randn(2, 16, config.width, generator=torch.Generator().manual_seed(2))
    heads = torch.randn(2, 3, 16, config.head_size, generator=torch.Generator().manual_seed(3))
    added, rotated = positions.add(stream, 0), positions.rotate(heads, 0)
    assert torch.equal(positions.add(stream[:, 5:9], 5), added[:, 5:9])
    assert torch.equal(positions.rotate(heads[:, :, 5:9], 5), rotated[:, :, 5:9])
    assert torch.equal(added, stream) != torch.equal(rotated, heads), "one of the two does something"


def test_a_text_ends_with_the_context() -> None:
    for name in KINDS:
        config = variant(name)
        _, flat = build(config)
        positions = positions_of(config, flat.weights)
        with pytest.raises(ModelError, match="17 tokens, but the model's context is 16"):
            positions.rotate(positions.add(torch.zeros(1, 1, 2, config.width), 15)[..., : config.head_size], 15)


def test_scaled_frequencies_are_kept_blended_and_divided() -> None:
    config = variant("llama", width=384, rope_base=500_000)
    plain, scaled = frequencies(config), frequencies(variant("llama", width=384, rope_base=500_000, rope_factor=8))
    turns = 8192 * plain / (2 * math.pi)
    fast, slow = turns > 4, turns < 1
    assert fast.any() and slow.any() and not (fast | slow).all()
    assert torch.equal(scaled[fast], plain[fast]) and torch.equal(scaled[slow], plain[slow] / 8)
    between = scaled[~(fast | slow)] / plain[~(fast | slow)]
    assert ((between < 1) & (between > 1 / 8)).all() and (between.diff() < 0).all()


def test_waves_are_as_large_as_the_embedding() -> None:
    config = variant("sinusoidal-positions", width=96)
    _, flat = build(config)
    waves = positions_of(config, flat.weights).add(torch.zeros(1, 16, 96), 0)
    embedding = flat.weights["model.embed_tokens.weight"]
    assert waves.square().mean().item() == pytest.approx(embedding.square().mean().item() / 2, rel=0.05)
