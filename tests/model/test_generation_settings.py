"""What may be asked of a text: ranges, kinds, and nothing that would be ignored."""

from typing import Any

import pytest

from model import limits
from model.errors import GenerationError
from model.generation.settings import SEEDS, Settings


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("max_tokens", limits.CONTEXT_MAX),
        ("temperature", limits.TEMPERATURE_MAX),
        ("top_k", limits.VOCABULARY_MAX),
        ("seed", SEEDS - 1),
        ("beams", limits.BEAMS_MAX),
        ("candidates", limits.LIKELIEST_MAX),
    ],
)
def test_a_number_is_within_its_range(name: str, most: int) -> None:
    assert getattr(Settings(**{name: most}), name) == most
    for wrong in (most + 1, -1):
        with pytest.raises(GenerationError, match=f"^{name} is {wrong}, allowed are"):
            Settings(**{name: wrong})


def test_stop_strings_are_few_and_short() -> None:
    longest = "x" * limits.STOP_CHARACTERS_MAX
    assert Settings(stop=(longest,) * limits.STOPS_MAX).stop[0] == longest
    for stop in ((longest + "x",), ("",)):
        with pytest.raises(GenerationError, match=f"^a stop string of {len(stop[0])} characters"):
            Settings(stop=stop)
    with pytest.raises(GenerationError, match="stop strings, at most"):
        Settings(stop=("x",) * (limits.STOPS_MAX + 1))


@pytest.mark.parametrize("top_p", [0, -0.1, 1.01, float("nan")])
def test_top_p_is_a_share(top_p: float) -> None:
    with pytest.raises(GenerationError, match="top_p is"):
        Settings(top_p=top_p)


@pytest.mark.parametrize(
    "asked",
    [
        {"beams": 2, "temperature": 1.0}, {"beams": 2, "top_k": 4}, {"beams": 2, "seed": 1}, {"temperature": 0, "top_p": 0.9},
        {"temperature": 0.0, "seed": 1}, {"candidates": 3, "max_tokens": 5}, {"candidates": 3, "stop": ["x"]},
        {"candidates": 3, "seed": 1}, {"candidates": 3, "beams": 2},
    ],
)  # fmt: skip
def test_what_nothing_would_read_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match="together with") as refused:
        Settings.from_dict(asked)
    assert refused.value.hint


@pytest.mark.parametrize(
    "asked",
    [
        {"max_tokens": "5"}, {"max_tokens": 5.0}, {"max_tokens": True}, {"temperature": "hot"}, {"temperature": False},
        {"stop": "x"}, {"stop": [1]}, {"cached": 1}, {"beams": [2]}, {"temperature": float("nan")}, {"speed": 3}, {"stop": None},
    ],
)  # fmt: skip
def test_what_is_of_another_kind_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(GenerationError):
        Settings.from_dict(asked)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(top_k=4, stop=("a", "b"), max_tokens=3),
        Settings(beams=4, cached=False),
        Settings(temperature=0.0),
    ],
)
def test_it_survives_json(settings: Settings) -> None:
    import json

    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_chance_is_asked_for() -> None:
    assert Settings().heat == Settings(temperature=0).heat == Settings(beams=4).heat == 0
    assert Settings(top_k=5).heat == Settings(top_p=0.5).heat == Settings(seed=0).heat == 1
    assert Settings(temperature=0.5, top_k=5).heat == 0.5
