"""Which tokens may be drawn, how often each is, and that a seed gives the same ones again."""

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from model.errors import GenerationError
from model.generation.sampling import Sampler, distribution
from model.generation.settings import Settings

LOGITS = np.random.default_rng(1).normal(size=500).astype(np.float32) * 3
ASKED = [
    {"temperature": 1.0}, {"temperature": 0.3}, {"temperature": 2.5}, {"top_k": 1}, {"top_k": 7}, {"top_k": 500}, {"top_k": 900},
    {"top_p": 0.01}, {"top_p": 0.5}, {"top_p": 0.95}, {"top_p": 1.0}, {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 3, "top_p": 0.4},
]  # fmt: skip


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_distribution_is_that_of_transformers(asked: dict[str, float]) -> None:
    scores = torch.tensor(LOGITS, dtype=torch.float64)[None]
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    if "temperature" in asked:
        scores = TemperatureLogitsWarper(asked["temperature"])(nothing, scores)
    if "top_k" in asked:
        scores = TopKLogitsWarper(int(asked["top_k"]))(nothing, scores)
    if asked.get("top_p", 1.0) < 1:
        scores = TopPLogitsWarper(asked["top_p"])(nothing, scores)
    expected = scores.softmax(dim=-1)[0].numpy()
    found = distribution(LOGITS, Settings(**asked))  # type: ignore[arg-type]
    assert np.allclose(found, expected, atol=1e-12) and ((found > 0) == (expected > 0)).all()
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_what_is_drawn_is_as_frequent_as_it_is_likely() -> None:
    settings = Settings(top_k=6, temperature=1.5, seed=3)
    sampler, count = Sampler(settings), 20_000
    drawn = np.bincount([sampler.choose(LOGITS) for _ in range(count)], minlength=len(LOGITS))
    expected = distribution(LOGITS, settings) * count
    seen = expected > 0
    assert not drawn[~seen].any()
    chi_squared = float(((drawn[seen] - expected[seen]) ** 2 / expected[seen]).sum())
    assert chi_squared < 20.5  # five degrees of freedom: one seed in a thousand has more


def test_a_seed_gives_the_same_tokens_and_none_gives_others_and_says_which() -> None:
    def draw(settings: Settings) -> tuple[list[int], int | None]:
        sampler = Sampler(settings)
        return [sampler.choose(LOGITS) for _ in range(50)], sampler.seed

    hot = Settings(temperature=5.0)
    first, seed = draw(hot)
    assert draw(hot)[0] != first
    assert draw(Settings(temperature=5.0, seed=seed)) == (first, seed)


def test_nothing_is_drawn_where_nobody_asked_for_it() -> None:
    for settings in (Settings(), Settings(temperature=0.0)):
        sampler = Sampler(settings)
        assert (sampler.choose(LOGITS), sampler.seed) == (int(LOGITS.argmax()), None)
    assert Sampler(Settings()).choose(np.zeros(9, np.float32)) == 0  # the first of equals


@pytest.mark.parametrize("temperature", [1e-320, 1e-9])
def test_cold_is_greedy(temperature: float) -> None:
    assert Sampler(Settings(temperature=temperature, seed=1)).choose(LOGITS) == LOGITS.argmax()


def test_the_last_token_with_any_probability_is_the_last_that_is_drawn() -> None:
    """Also where the sum of probabilities, times a number just below one, is the sum."""
    sampler = Sampler(Settings(top_k=2, seed=1))
    sampler._draws = type("Highest", (), {"random": lambda _: 1.0})()  # type: ignore[assignment]
    logits = np.array([1, 5, 5, 0, 0], np.float32)
    assert sampler.choose(logits) == 2


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("settings", [Settings(), Settings(temperature=1.0)])
def test_a_model_without_finite_logits_is_said(wrong: float, settings: Settings) -> None:
    logits = LOGITS.copy()
    logits[7] = wrong
    with pytest.raises(GenerationError, match="not finite: its training has diverged"):
        Sampler(settings).choose(logits)
