"""The node's own settings and where each came from: flag, environment, config.toml or default, in this order.

What it is: everything one operator decides for one node. What it is not: the network's constants; those stand in the genesis, and the
settings ``size``, ``moe``, ``training``, ``policy`` and those of the text only say what to found a network with, or what a joiner expects to find.

For editors: a setting is one entry in ``SETTINGS`` and one field of ``Config``; both or none. A setting that nothing reads does not
exist. Every refusal names the place (flag, variable, or file and line), the key, the value, and what would be right.
"""

import difflib
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from model.errors import ConfigError
from model.precision import PRECISIONS, check_precision
from p2pnode.checkpoint import Checkpoint
from p2pnode.errors import ExitCode, SetUpError, UserError, why
from p2pnode.home import HOME_VARIABLE, Home, find_home
from p2pnode.tokens import parse_token

Origin = str  # "default", "config.toml", "P2PNODE_NAME", "--name"
Policy = Literal["open", "invite", "allowlist"]
LogLevel = Literal["debug", "info", "warning", "error"]

PREFIX = "P2PNODE_"
NAME_CHARACTERS_MAX = 64  # a name is shown in tables
THREADS_MAX = 4096  # catches a typing error, not a machine
UPLOAD_MBIT_MAX = 1_000_000  # the same, for a link
BOOTSTRAP_MAX = 64  # a list that a person typed; the address book finds the rest
DATA_MAX = 1024  # names in a list that a person typed; a folder or a pattern names more files at once
ALLOWED_MAX = 1024  # eight committees of the largest size; the genesis that lists them travels
CONFIG_BYTES_MAX = 64 * 1024  # a settings file is a page; anything longer is another file by mistake


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a node listens. ``host`` is a name, an IPv4 or an IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


DEFAULT_LISTEN = Endpoint("127.0.0.1", 7337)


@dataclass(frozen=True, slots=True)
class Config:
    """One node's settings. None means "not chosen": the node decides at the moment of use, as each comment says."""

    home: Path
    name: str | None = None  # None: the short node id
    device: str = "cpu"
    precision: str = "fp32"  # of matrix products while it learns; no concern of the network's
    compiled: bool = False  # its training step, by torch
    threads: int | None = None  # None: one, so that nodes on one machine do not fight over its cores
    bootstrap: tuple[Endpoint, ...] = ()
    listen: Endpoint = DEFAULT_LISTEN
    announce: Endpoint | None = None  # None: the address listened on
    upload_mbit: float | None = None  # None: as fast as the link takes it; votes are never held back
    data: tuple[Path | str, ...] = ()  # files, folders, patterns, or text of the word "synthetic"; with the next:
    dataset: tuple[str, ...] = ()  # none of either: the source text of Python's standard library
    column: tuple[str, ...] = ()  # of jsonl, csv and parquet; none: text; two: an input and a target
    pairs: bool | None = None  # lines `input |target` in plain text; None: where every line is one
    tokenizer: Path | str | None = None  # a tokenizer.json, or the name of one; None: bytes
    size: str = "tiny"
    moe: bool = False  # the size's variant with experts
    training: Path | None = None  # a JSON file; None: as model/config.py has it
    train: bool = True
    repl: bool | None = None  # None: when stdin is a terminal
    policy: Policy | None = None  # None: open on loopback, invite elsewhere
    allow: tuple[str, ...] = ()  # public keys, under the policy allowlist
    threshold: int = 67  # percent of the members; 67 stands for "more than two thirds", and no more than that
    invite: str | None = None  # the token of a member, to be one where invitations are asked for
    network: str | None = None  # None: pin the first network seen
    checkpoint: Checkpoint | None = None  # None: the first chain that verifies
    log_level: LogLevel = "info"
    origins: Mapping[str, Origin] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def origin(self, key: str) -> Origin:
        """Where the value of ``key`` came from."""
        return self.origins.get(key, "default")

    def given(self, key: str) -> bool:
        """Whether a person chose this value. A joiner compares only given values with the genesis."""
        return self.origin(key) != "default"

    @property
    def opens_repl(self) -> bool:
        """Whether ``start`` opens the prompt: as chosen, or else where a person sits at a terminal."""
        return sys.stdin.isatty() and sys.stdout.isatty() if self.repl is None else self.repl

    def shown(self) -> dict[str, tuple[object, Origin]]:
        """Every setting as plain JSON with its origin, for ``config show``."""
        return {key: (_json_value(getattr(self, key)), self.origin(key)) for key in ("home", *SETTINGS)}


class _Invalid(Exception):
    """A value that is not what the setting takes: what it does take, and what is wrong with this one."""

    def __init__(self, takes: str, reason: str = "not valid") -> None:
        super().__init__(takes)
        self.takes, self.reason = takes, reason


def load_config(flags: Mapping[str, object] | None = None, *, environ: Mapping[str, str] = os.environ) -> Config:
    """Read every source. ``flags`` holds command-line values by key; None and an empty list mean "not given".

    Raises ``UserError`` for the first value that is wrong, with its place.
    """
    given_flags = {k: v for k, v in (flags or {}).items() if v not in (None, [], ())}
    home, home_origin = _home(given_flags.pop("home", None), environ)
    _refuse_misspelt_variables(environ)
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {"home": home_origin}
    for key, (value, place) in _file_values(home).items():
        values[key] = _read(key, value, place=place, base=home.path)
        origins[key] = "config.toml"
    for key in SETTINGS:
        variable = PREFIX + key.upper()
        if environ.get(variable):
            values[key] = _read(key, environ[variable], place=variable, base=Path.cwd())
            origins[key] = variable
    for key, value in given_flags.items():
        flag = _flag(key, value)
        values[key] = _read(key, value, place=flag, base=Path.cwd())
        origins[key] = flag
    config = Config(home=home.path, **values, origins=MappingProxyType(origins))
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    """Of what the settings say together, not each by itself."""
    try:
        check_precision(config.precision, config.device)
    except ConfigError as problem:
        place = config.origin("precision")
        code = ExitCode.USAGE if place.startswith("--") else ExitCode.SET_UP
        raise UserError(f"{place} {config.precision}: {problem.message}", problem.hint, exit_code=code) from None


def parse_endpoint(text: str) -> Endpoint:
    """Strict ``HOST:PORT``; IPv6 in brackets. Raises ValueError saying what is wrong."""
    match = re.fullmatch(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})", text)
    if match is None:
        if text.count(":") > 1 and "[" not in text:
            raise ValueError("an IPv6 address needs brackets")
        raise ValueError("not HOST:PORT")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    if match["six"] is not None:
        try:
            return Endpoint(str(ipaddress.IPv6Address(match["six"])), port)
        except ValueError:
            raise ValueError(f"{match['six']} is not an IPv6 address") from None
    host = match["host"]
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return Endpoint(str(ipaddress.IPv4Address(host)), port)
        except ValueError:
            raise ValueError(f"{host} is not an IPv4 address") from None
    if len(host) > 253 or not all(re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", part) for part in host.split(".")):
        raise ValueError(f"{host} is not a host name")
    return Endpoint(host.lower(), port)


# --- one reader per kind of value; each takes what TOML, the environment or a flag gives --------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _Invalid("text")
    return value


def _name(value: object) -> str:
    text = _text(value)
    if len(text) > NAME_CHARACTERS_MAX or not text.isprintable():
        raise _Invalid(f"at most {NAME_CHARACTERS_MAX} printable characters")
    return text


def _device(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise _Invalid("cpu, cuda or cuda:N")
    return text


def _threads(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= THREADS_MAX:
        raise _Invalid(f"a whole number from 1 to {THREADS_MAX}")
    return value


def _upload_mbit(value: object) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float | str):
            value = float(value)
    except ValueError:
        pass
    if not isinstance(value, float) or not 0.1 <= value <= UPLOAD_MBIT_MAX:  # not a number fails both
        raise _Invalid("megabits a second, 0.1 or more, as in 20")
    return value


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH_WORDS:
        return _SWITCH_WORDS[value.lower()]
    raise _Invalid("true or false")


_SWITCH_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    try:
        return parse_endpoint(_text(value))
    except ValueError as error:
        raise _Invalid("HOST:PORT, as in 192.0.2.1:7337 or [2001:db8::1]:7337", str(error)) from None


def _dialable(value: object) -> Endpoint:
    endpoint = _endpoint(value)
    if endpoint.port == 0 or endpoint.host in ("0.0.0.0", "::"):  # noqa: S104 - refused here, not bound
        raise _Invalid("an address that others can dial")
    return endpoint


def _endpoints(value: object) -> tuple[Endpoint, ...]:
    parts: list[object]
    match value:
        case str():
            parts = [part.strip() for part in value.split(",")]
        case list() | tuple():
            parts = list(value)
        case _:
            raise _Invalid('a list of addresses, as in ["192.0.2.1:7337"]')
    if len(parts) > BOOTSTRAP_MAX:
        raise _Invalid(f"at most {BOOTSTRAP_MAX} addresses")
    return tuple(dict.fromkeys(_dialable(part) for part in parts))


def _path(value: object) -> Path:
    return Path(_text(str(value) if isinstance(value, Path) else value)).expanduser()


def _data(value: object) -> tuple[Path | str, ...]:
    """One path as text, or a list of them; made-up text has a name and no place."""
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if not parts or len(parts) > DATA_MAX:
        raise _Invalid(f"1 to {DATA_MAX} files, folders or patterns")
    return tuple(
        part if isinstance(part, str) and part.partition(":")[0] == "synthetic" else _path(part) for part in parts
    )


def _names(value: object) -> tuple[str, ...]:
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if not parts or len(parts) > DATA_MAX:
        raise _Invalid(f"1 to {DATA_MAX} names")
    return tuple(_text(part) for part in parts)


def _columns(value: object) -> tuple[str, ...]:
    names = _names(value)
    if len(names) > 2:
        raise _Invalid("the column of the text, or two: of the input and of the target")
    return names


def _tokenizer(value: object) -> Path | str:
    text = _text(str(value) if isinstance(value, Path) else value)
    is_place = isinstance(value, Path) or text.endswith(".json") or os.sep in text or Path(text).exists()
    return Path(text).expanduser() if is_place and text != "bytes" else text


def _choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise _Invalid(" or ".join(choices))
        return str(value)

    return read


def _allow(value: object) -> tuple[str, ...]:
    keys = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
        raise _Invalid("public keys of 64 hexadecimal digits, as p2pnode id prints them")
    if len(keys) > ALLOWED_MAX:
        raise _Invalid(f"at most {ALLOWED_MAX} keys")
    return tuple(sorted(set(keys)))


_KEY = re.compile(r"[0-9a-f]{64}")


def _threshold(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value):
        value = int(value)
    takes = "a whole number from 67 to 100: the percentage of the members that must agree"
    if isinstance(value, bool) or not isinstance(value, int) or value > 100:
        raise _Invalid(takes)
    if value < 67:
        raise _Invalid(takes, "with two thirds or less, two halves of a network could decide differently")
    return value


def _invite(value: object) -> str:
    text = _text(value).strip()
    try:
        parse_token(text)
    except ValueError as error:
        raise _Invalid("a token as p2pnode invite prints it", str(error)) from None
    return text


def _network(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise _Invalid("64 hexadecimal digits, as p2pnode status --json prints them")
    return text


def _checkpoint(value: object) -> Checkpoint:
    try:
        return Checkpoint.parse(_text(value).lower())
    except ValueError as error:
        takes = "HEIGHT:HASH with 64 hexadecimal digits, as p2pnode status prints it on a node that you trust"
        raise _Invalid(takes, str(error)) from None


SETTINGS: Mapping[str, Callable[[object], object]] = MappingProxyType(
    {
        "name": _name,
        "device": _device,
        "precision": _choice(*PRECISIONS),
        "compiled": _switch,
        "threads": _threads,
        "bootstrap": _endpoints,
        "listen": _endpoint,
        "announce": _dialable,
        "upload_mbit": _upload_mbit,
        "data": _data,
        "dataset": _names,
        "column": _columns,
        "pairs": _switch,
        "tokenizer": _tokenizer,
        "size": _text,
        "moe": _switch,
        "training": _path,
        "train": _switch,
        "repl": _switch,
        "policy": _choice("open", "invite", "allowlist"),
        "allow": _allow,
        "threshold": _threshold,
        "invite": _invite,
        "network": _network,
        "checkpoint": _checkpoint,
        "log_level": _choice("debug", "info", "warning", "error"),
    }
)


def _read(key: str, value: object, *, place: str, base: Path) -> object:
    try:
        read = SETTINGS[key](value)
    except _Invalid as wrong:
        from_flag = place.startswith("--")
        where = place if from_flag or place.startswith(PREFIX) else f"{place}: {key}"
        code = ExitCode.USAGE if from_flag else ExitCode.SET_UP
        raise UserError(f"{where} {_shown(value)}: {wrong.reason}", f"it takes {wrong.takes}", exit_code=code) from None
    # A path in the file is relative to the home, so that the node finds it from any working directory.
    if isinstance(read, tuple):
        return tuple(base / part if isinstance(part, Path) else part for part in read)
    return (base / read) if isinstance(read, Path) else read


def _json_value(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case tuple():
            return [str(item) for item in value]
        case _:
            return str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _flag(key: str, value: object) -> str:
    name = key.replace("_", "-")
    return f"--no-{name}" if value is False else f"--{name}"


def _home(flag: object, environ: Mapping[str, str]) -> tuple[Home, Origin]:
    if flag is not None:
        return find_home(str(flag), environ), "--home"
    return find_home(None, environ), HOME_VARIABLE if environ.get(HOME_VARIABLE) else "default"


def _refuse_misspelt_variables(environ: Mapping[str, str]) -> None:
    """Only near misses: orchestrators set variables of their own (P2PNODE_PORT_7337_TCP), which are none of ours."""
    known = [PREFIX + key.upper() for key in SETTINGS] + [HOME_VARIABLE]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if near:
                raise SetUpError(f"{variable}: unknown setting", f"did you mean {near[0]}?")


def _file_values(home: Home) -> dict[str, tuple[object, str]]:
    """Each value of config.toml with its place, ``FILE:LINE``; empty if there is no file."""
    path = home.config
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SetUpError(f"{path}: {why(error)}", "check who owns it and its mode") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise SetUpError(f"{path}: longer than {CONFIG_BYTES_MAX} bytes", "is this the right file?")
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise SetUpError(f"{path}:{data[: error.start].count(10) + 1}: not UTF-8 text", _REPAIR_HINT) from None
    except tomllib.TOMLDecodeError as error:
        place, reason = _toml_error(str(error), text)
        raise SetUpError(f"{path}:{place}: not valid TOML: {reason}", _REPAIR_HINT) from None
    for key in document:
        if key not in SETTINGS:
            raise SetUpError(f"{path}:{_line(text, key)}: {key}: unknown setting", _unknown_hint(key))
    return {key: (value, f"{path}:{_line(text, key)}") for key, value in document.items()}


_REPAIR_HINT = "repair the line, or move the file away to use the defaults"


def _unknown_hint(key: str) -> str:
    if key == "home":
        return f"the home is chosen with --home or {HOME_VARIABLE}, not by a file that lies in it"
    near = difflib.get_close_matches(key, SETTINGS, n=1)
    return f"did you mean {near[0]}?" if near else f"the settings are: {' '.join(SETTINGS)}"


def _toml_error(message: str, text: str) -> tuple[int, str]:
    """tomllib says "... (at line 3, column 5)" or "... (at end of document)"."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    if match is None:
        return 1, message
    line = int(match[2]) if match[2] else max(1, len(text.splitlines()))
    return line, match[1]


def _line(text: str, key: str) -> int:
    """The line where a top-level key or its table starts; tomllib keeps no positions."""
    bare = re.escape(key)
    pattern = re.compile(rf"""^\s*(?:\[+\s*)?["']?{bare}["']?\s*[=.\]]""", re.MULTILINE)
    match = pattern.search(text)
    return text.count("\n", 0, match.end()) + 1 if match else 1
