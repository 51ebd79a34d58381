"""What may be asked of a text: how long, how each token is chosen, and where it stops.

Who says nothing of chance gets none: the likeliest token each time, the same text again. A temperature above zero, top_k, top_p or
a seed ask for a draw. What nothing would read is refused. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

from model import limits
from model.errors import GenerationError

TOKENS_USUAL: Final = 256
SEEDS: Final = 1 << 63  # 0 to SEEDS - 1: what fits JSON's readers and a generator
_DRAWING: Final = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True, slots=True)
class Settings:
    """None: as usual. Raises GenerationError for what is out of range, or read by nothing."""

    max_tokens: int | None = None  # TOKENS_USUAL, and never beyond the model's context
    temperature: float | None = (
        None  # logits are divided by it; 0: the likeliest token; 1 where only the others are given
    )
    top_k: int | None = None  # draw among so many
    top_p: float | None = None  # draw among the likeliest that add up to it ("nucleus", Holtzman et al. 2020)
    seed: int | None = None  # of the draws; None: another one each time
    beams: int | None = None  # above 1: beam search, which draws nothing
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    candidates: int | None = None  # no text: so many of the likeliest next tokens
    cached: bool = True  # False: read the whole text again for each token, as slow as it is simple

    def __post_init__(self) -> None:
        self._check_types()
        _between("max_tokens", self.max_tokens, 1, limits.CONTEXT_MAX)
        _between("temperature", self.temperature, 0, limits.TEMPERATURE_MAX)
        _between("top_k", self.top_k, 1, limits.VOCABULARY_MAX)
        _between("seed", self.seed, 0, SEEDS - 1)
        _between("beams", self.beams, 1, limits.BEAMS_MAX)
        _between("candidates", self.candidates, 1, limits.LIKELIEST_MAX)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise GenerationError(f"top_p is {self.top_p}, allowed are numbers above 0, up to 1")
        if len(self.stop) > limits.STOPS_MAX:
            raise GenerationError(f"{len(self.stop)} stop strings, at most {limits.STOPS_MAX} are allowed")
        for text in self.stop:
            if not 1 <= len(text) <= limits.STOP_CHARACTERS_MAX:
                raise GenerationError(
                    f"a stop string of {len(text)} characters, allowed are 1 to {limits.STOP_CHARACTERS_MAX}"
                )
        self._check_nothing_is_idle()

    def _check_types(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            fits: bool
            match field.name:
                case "cached":
                    fits = isinstance(value, bool)
                case "stop":
                    fits = isinstance(value, tuple) and all(isinstance(text, str) for text in value)
                case "temperature" | "top_p":
                    fits = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
                case _:
                    fits = value is None or (isinstance(value, int) and not isinstance(value, bool))
            if not fits:
                raise GenerationError(f"{field.name}: {value!r:.60} is not of the right kind")

    def _check_nothing_is_idle(self) -> None:
        drawing = [name for name in _DRAWING if getattr(self, name) is not None]
        if (self.beams or 1) > 1:
            _refuse(drawing, "beams: beam search draws nothing")
        if self.temperature == 0:
            _refuse([name for name in drawing if name != "temperature"], "temperature 0: nothing is drawn")
        if self.candidates is not None:
            given = [name for name in ("max_tokens", "seed", "beams") if getattr(self, name) is not None]
            _refuse([*given, *(["stop"] if self.stop else [])], "candidates: no text is written")

    @property
    def heat(self) -> float:
        """The temperature; 0 where nothing is drawn."""
        if self.temperature is not None:
            return float(self.temperature)
        return 1.0 if any(getattr(self, name) is not None for name in _DRAWING) else 0.0

    def to_dict(self) -> dict[str, object]:
        """What is not as usual."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) not in (None, (), f.default)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Of JSON: a list for a tuple. Raises GenerationError for an unknown field, too."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise GenerationError(f"unknown setting: {unknown[0]!r:.60}", f"known: {', '.join(sorted(known))}")
        stop = values.get("stop", ())
        of_tuples = {**values, "stop": tuple(stop) if isinstance(stop, list) else stop}
        return cls(**of_tuples)  # type: ignore[arg-type]  # __post_init__ checks every type


def _between(name: str, value: float | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise GenerationError(f"{name} is {value}, allowed are {low} to {high}")


def _refuse(given: list[str], because: str) -> None:
    if given:
        raise GenerationError(
            f"{given[0]} together with {because}", f"leave one of the two out: {given[0]}, or the other"
        )
