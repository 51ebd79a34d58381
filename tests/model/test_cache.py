"""Reading with a cache against reading the whole text again; who goes when a cache is full."""

import pytest
import torch
from torch import Tensor

from model.cache import Cache, Eviction, LayerCache
from model.errors import ModelError
from model.patterns import Full
from model.transformer import Transformer
from tests.model.decoders import VARIANTS, build, variant, windows


def read(model: Transformer, tokens: Tensor, cache: Cache, pieces: list[int]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part, cache) for part in torch.split(tokens, pieces, dim=1)], dim=1)


@pytest.mark.parametrize("pieces", [[1] * 16, [16], [5, 1, 1, 7, 2]], ids=["singly", "at-once", "in-pieces"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_cache_changes_nothing(name: str, pieces: list[int]) -> None:
    model, _ = build(variant(name))
    tokens = windows(model.config, 3, 15)
    with torch.no_grad():
        whole = model(tokens)
    cache = Cache(model.config)
    assert torch.allclose(read(model, tokens, cache, pieces), whole, atol=3e-6)
    assert cache.seen == 16 and all(layer.held is not None and layer.held.keys.shape[2] == 16 for layer in cache.layers)


@pytest.mark.parametrize("change", [
    {}, {"positions": "learned", "rope_base": 10_000}, {"positions": "sinusoidal", "rope_base": 10_000}, {"rope_factor": 4},
    {"attention_sinks": True},
])  # fmt: skip
@pytest.mark.parametrize("pieces", [[1] * 40, [11, 1, 1, 1, 20, 6]], ids=["singly", "in-pieces"])
def test_a_sliding_cache_is_exact_for_a_window(change: dict[str, int | str | bool], pieces: list[int]) -> None:
    """Five times as many tokens as slots: positions stay those in the text, whatever was dropped."""
    model, _ = build(variant("window", window=8, context=40, **change))
    tokens = windows(model.config, 2, 39)
    with torch.no_grad():
        whole = model(tokens)
    cache = Cache(model.config, Eviction("sliding-window", slots=8))
    assert torch.allclose(read(model, tokens, cache, pieces), whole, atol=3e-6)
    for layer in cache.layers:
        assert layer.held is not None and layer.held.positions[0, 0].tolist() == list(range(32, 40))


@pytest.mark.parametrize("policy", ["sliding-window", "lru", "heavy-hitter"])
def test_too_few_slots_are_exact_until_the_first_one_goes(policy: str) -> None:
    model, _ = build(variant("llama", context=40))
    tokens = windows(model.config, 2, 39)
    with torch.no_grad():
        whole = model(tokens)
    approximate = read(model, tokens, Cache(model.config, Eviction(policy, slots=20)), [1] * 40)
    assert torch.allclose(approximate[:, :20], whole[:, :20], atol=3e-6)
    assert approximate.isfinite().all() and not torch.allclose(approximate[:, 20:], whole[:, 20:], atol=1e-3)


def test_where_few_tokens_get_most_attention_keeping_these_is_nearly_exact() -> None:
    """Zhang et al.'s observation, made: three early tokens that every later one looks at."""
    generator = torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, 1, 1, 64, 8, generator=generator)
    keys[:, :, [3, 7, 11]] += 3
    query = torch.ones(1, 1, 1, 8)
    gaps = {}
    for policy in ("full", "sliding-window", "lru", "heavy-hitter"):
        cache = LayerCache(Eviction(policy, None if policy == "full" else 16))
        for key, value in zip(keys.split(1, dim=2), values.split(1, dim=2), strict=True):
            mixed = cache.attend(Full(), query, key, value)
        exact = torch.softmax(query @ keys.mT / 8**0.5, dim=-1) @ values
        gaps[policy] = (mixed - exact).abs().max().item()
    assert gaps["full"] < 1e-6 and max(gaps["lru"], gaps["heavy-hitter"]) < 0.05 < 0.3 < gaps["sliding-window"]


# --- who goes ----------------------------------------------------------------------------------------------------------------
# One head of size one; a key is a score, for every query is one. Weights are then what the test says they are.


def feed(cache: LayerCache, scores: list[float]) -> list[int]:
    """Reads tokens with these scores, one at a time; the positions that are held after that."""
    for score in scores:
        key = torch.full((1, 1, 1, 1), float(score))
        mixed = cache.attend(Full(), torch.ones(1, 1, 1, 1), key, key)
        assert mixed.shape == (1, 1, 1, 1)
    assert cache.held is not None
    return cache.held.positions.flatten().tolist()


def test_the_oldest_goes() -> None:
    assert feed(LayerCache(Eviction("sliding-window", slots=3)), [0] * 7) == [4, 5, 6]


@pytest.mark.parametrize("policy", ["sliding-window", "lru", "heavy-hitter"])
def test_the_first_ones_stay(policy: str) -> None:
    cache = LayerCache(Eviction(policy, slots=6, first=2))
    held = feed(cache, [-9, -9, 0, 0, 0, 0, 0, 0, 0, 0])
    assert held[:2] == [0, 1] and len(held) == 6 and held[-1] == 9


def test_who_was_not_looked_at_for_longest_goes() -> None:
    """0 is looked at by all that come, but for the last two, which look at one another."""
    cache = LayerCache(Eviction("lru", slots=3))
    assert feed(cache, [5, 0, 0]) == [0, 1, 2]
    assert feed(cache, [0]) == [0, 2, 3]
    assert feed(cache, [9]) == [0, 3, 4], "its last look at 0 was the newest before 9 came"
    assert feed(cache, [9])[1:] == [4, 5], "of 0 and 3, looked at together for the last time, either"


def test_who_got_the_least_attention_goes() -> None:
    cache = LayerCache(Eviction("heavy-hitter", slots=4))
    held = feed(cache, [1, -3, 1, 1, 1])
    assert held == [0, 2, 3, 4], "1 was worth little to everybody"
    assert feed(cache, [1]) == [0, 2, 4, 5], "of the older ones 3 has had the least time to collect"
    with_newest = LayerCache(Eviction("heavy-hitter", slots=4))
    assert feed(with_newest, [1, 1, 1, -9, -9]) == [0, 1, 3, 4], "the newest half is safe, whatever it got"


def test_heads_lose_different_tokens() -> None:
    cache = LayerCache(Eviction("heavy-hitter", slots=2))
    for first, second in ((3.0, 0.0), (0.0, 3.0), (0.0, 0.0)):
        key = torch.tensor([first, second]).view(1, 2, 1, 1)
        cache.attend(Full(), torch.ones(1, 4, 1, 1), key, key)
    assert cache.held is not None and cache.held.positions[0].tolist() == [[0, 2], [1, 2]]


def test_a_piece_sees_all_of_itself_before_somebody_goes() -> None:
    cache = LayerCache(Eviction("sliding-window", slots=2))
    key = torch.zeros(1, 1, 5, 1)
    mixed = cache.attend(Full(), torch.ones(1, 1, 5, 1), key, torch.arange(5.0).view(1, 1, 5, 1))
    assert torch.allclose(mixed.flatten(), torch.tensor([0, 0.5, 1, 1.5, 2])) and cache.held is not None
    assert cache.held.positions.flatten().tolist() == [3, 4] and cache.seen == 5


@pytest.mark.parametrize(("policy", "slots", "first"), [
    ("fifo", 4, 0), ("full", 4, 0), ("full", None, 1), ("lru", None, 0), ("lru", 0, 0), ("sliding-window", 4, 4),
    ("sliding-window", 4, -1), ("heavy-hitter", 4, 2),
])  # fmt: skip
def test_numbers_that_do_not_fit_are_refused(policy: str, slots: int | None, first: int) -> None:
    with pytest.raises(ModelError):
        Eviction(policy, slots, first)


def test_a_text_ends_with_the_context() -> None:
    model, _ = build(variant("llama"))
    cache = Cache(model.config, Eviction("sliding-window", slots=4))
    read(model, windows(model.config, 1, 15), cache, [16])
    with pytest.raises(ModelError, match="17 tokens"):
        read(model, torch.zeros(1, 1, dtype=torch.int64), cache, [1])
