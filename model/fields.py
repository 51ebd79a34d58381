"""Fields of a frozen config: out of JSON and back into it, and each within its bounds or a ConfigError that names it.

What it is not: the choices themselves, nor what goes with what; model/config.py has both. No torch here.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from model import limits
from model.errors import ConfigError

if TYPE_CHECKING:
    from model.config import ModelConfig, TrainingConfig

_KINDS: Final[Mapping[object, str]] = {int: "a whole number", str: "a string", bool: "true or false"}
# As float and Decimal read them alike, and in one way only: no blanks, no underscores, no other alphabet's digits.
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?")

_Value = TypeVar("_Value", int, str, bool)
_Config = TypeVar("_Config", "ModelConfig", "TrainingConfig")


def later(default: _Value) -> _Value:
    """A field that the first networks did not have: no document holds it at its default."""
    return dataclasses.field(default=default, metadata={"later": True})


def from_file(
    cls: type[_Config], path: Path, what: str, hint: str, otherwise: Mapping[str, object] = MappingProxyType({})
) -> _Config:
    """`otherwise`: what stands in for fields that the file does not name, before their own defaults."""
    try:
        with path.open("rb") as file:
            text = file.read(limits.CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"no {what} named {str(path)!r}, and no such file ({error.strerror})", hint) from None
    if len(text) > limits.CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {limits.CONFIG_BYTES_MAX} bytes", hint)
    try:
        values = json.loads(text, object_pairs_hook=_said_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})", hint) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a JSON object", hint)
    defaults = {field.name: field.default for field in dataclasses.fields(cls) if field.default is not MISSING}
    return cls.from_dict(defaults | dict(otherwise) | values)


def _said_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands there twice")
    return values


def to_dict(config: "ModelConfig | TrainingConfig") -> dict[str, int | str | bool]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    silent = {field.name: field.default for field in dataclasses.fields(config) if field.metadata.get("later")}
    return {name: value for name, value in values.items() if name not in silent or value != silent[name]}


def strict_fields(cls: "type[ModelConfig] | type[TrainingConfig]", values: Mapping[str, object]) -> dict[str, object]:
    known = [field.name for field in dataclasses.fields(cls)]
    needed = [field.name for field in dataclasses.fields(cls) if not field.metadata.get("later")]
    if missing := [name for name in needed if name not in values]:
        raise ConfigError(f"missing: {', '.join(missing)}", f"the fields are {', '.join(known)}")
    if unknown := sorted(str(name)[:40] for name in values if name not in known):
        raise ConfigError(f"unknown: {', '.join(unknown[:8])}", f"the fields are {', '.join(known)}")
    return dict(values)


def check_types(config: "ModelConfig | TrainingConfig") -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if type(value) is not field.type:  # exact, so that True is no integer
            hint = "without quotes" if field.default is MISSING else f"for example {json.dumps(field.default)}"
            raise ConfigError(f"{field.name} must be {_KINDS[field.type]}, not {_shown(value)}", hint)


def refuse_idle(config: "ModelConfig | TrainingConfig", is_read: bool, with_what: str, names: Iterable[str]) -> None:
    """A choice that nothing would read is a mistake of whoever made it."""
    for field in dataclasses.fields(config):
        if not is_read and field.name in names and getattr(config, field.name) != field.default:
            raise ConfigError(f"{field.name} has a meaning only with {with_what}", f"leave {field.name} out")


def between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {_shown(value)}, allowed are {low} to {high}", "a whole number within these")


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} {value[:40]!r}", f"known: {', '.join(known)}")


def decimal_between(name: str, value: str, low: str, high: str) -> None:
    try:
        allowed = _DECIMAL.fullmatch(value) and len(value) <= 20 and Decimal(low) <= Decimal(value) <= Decimal(high)
    except InvalidOperation:  # an exponent of millions
        allowed = False
    if not allowed:
        raise ConfigError(f"{name} is {value[:40]!r}, allowed are {low} to {high}", 'a decimal in a string, like "0.5"')


def _shown(value: object) -> str:
    return f"{value!r:.40}"
