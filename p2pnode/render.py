"""From the node's JSON to lines for a person: one name for one thing, aligned, short.

What it is: pure functions ``dict -> str``, used by the command line, the REPL and the log. What it is not: a decision; the verdict and
the numbers are the node's.

For editors: a field may be None while a node starts or joins, and every text may come from a stranger: pass it through ``printable``.
No import beyond the standard library's light part, because ``p2pnode status`` must be quick.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

Row = Mapping[str, Any]

NODE_CHARACTERS = 8  # of a node id's 40: unique among the few hundred that one person meets
ROOT_CHARACTERS = 12
DASH = "-"
_ENDED = {  # why a text is no longer
    "stop": "ended by a stop string",
    "end": "ended by itself",
    "length": "as many as asked for",
    "context": "all that the context holds",
}
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2"}


# --- whole answers -------------------------------------------------------------------------------------------------------------


def status(s: Row, *, coloured: bool = False) -> str:
    """One verdict line with its reason, then what an operator asks next, one line each."""
    needed, reachable, members = s.get("quorum"), s.get("members_reachable"), s.get("members")
    facts = {
        "node": _join(short(s.get("node")), _name(s), _text(s.get("role")), _uptime(s)),
        "network": _join(
            root(s.get("network")),
            f"{_text(reachable)} of {_text(members)} members reachable, {_text(needed)} needed",
            _plural(s.get("peers"), "peer"),
        ),
        "height": _join(_text(s.get("height")), f"view {_text(s.get('view'))}", _text(s.get("phase"), "")),
        "model": _join(f"root {root(s.get('model_root'))}", _parameters(s.get("parameters"))),
        "checkpoint": _text(s.get("checkpoint")),
        "training": _training(s.get("training") or {}),
        "loss": _losses(s),
        **_speed(s),
        "traffic": _join(
            f"sent {human_bytes(s.get('bytes_sent_total'))}",
            f"received {human_bytes(s.get('bytes_received_total'))}",
            _percent(s.get("compute_fraction"), "of the time in training steps"),
        ),
        **_people(s),
        "faults": f"{_text(s.get('evidence'))} proven, {_text(s.get('refused'))} messages refused",
        "listen": _text(s.get("listen")),
        "reachable": _text((s.get("reachable") or {}).get("text")),
        "join with": _text(s.get("join")),
        "home": _text(s.get("home")),
    }
    width = max(map(len, facts))
    return "\n".join([verdict_line(s, coloured=coloured), *(f"  {k.ljust(width)}  {v}" for k, v in facts.items())])


def verdict_line(s: Row, *, coloured: bool = False) -> str:
    """``healthy`` or ``halted: no quorum, 2 of 5 reachable, 4 needed``."""
    verdict, reason = _text(s.get("verdict")), _text(s.get("reason"), "")
    line = f"{verdict}: {reason}" if reason else verdict
    match verdict.split(":")[0]:
        case _ if is_well(s):
            return paint(line, "green", coloured=coloured)
        case "halted":
            return paint(line, "red", coloured=coloured)
        case _:
            return paint(line, "yellow", coloured=coloured)


def is_well(s: Row) -> bool:
    """Whether nothing needs the operator: healthy, or idle because nobody trains."""
    return str(s.get("verdict")).split(":")[0] in ("healthy", "idle")


def brief(s: Row) -> str:
    """The one line under the REPL's prompt."""
    reachable = f"{_text(s.get('members_reachable'))}/{_text(s.get('members'))} members"
    loss = f"loss {_number(s.get('loss'))}"
    return _join(
        verdict_line(s), f"height {_text(s.get('height'))}", reachable, _training(s.get("training") or {}), loss
    )


def peers(rows: Sequence[Row]) -> str:
    """One line per peer."""
    if not rows:
        return "no peers"
    return table(
        ["node", "address", "direction", "role", ">height", "model root", ">score", "reachable", ">rtt", "remark"],
        [
            [
                short(p.get("node")),
                _text(p.get("address")),
                _text(p.get("direction")),
                _text(p.get("role")),
                _text(p.get("height")),
                root(p.get("model_root")),
                _text(p.get("score")),
                {True: "yes", False: "no"}.get(p.get("reachable"), DASH),  # type: ignore[arg-type]
                human_seconds(p.get("rtt_seconds")),
                _banned(p),
            ]
            for p in rows
        ],
    )


def rounds(rows: Sequence[Row]) -> str:
    """One line per height, oldest first; seconds by phase."""
    if not rows:
        return "no rounds yet"
    phases = ("learn", "collect", "agree", "total")
    return table(
        [
            *(">height", ">view", "model root", "proposer", ">contributions", ">loss"),
            *(*(f">{phase}" for phase in phases), "committee"),
        ],
        [
            [
                _text(r.get("height")),
                _text(r.get("view")),
                root(r.get("model_root")),
                short(r.get("proposer")),
                _text(r.get("contributions")),
                _number(r.get("loss")),
                *(human_seconds((r.get("seconds") or {}).get(phase)) for phase in phases),
                _changes(r),
            ]
            for r in rows
        ],
    )


def trace(t: Row) -> str:
    """The path of one gradient, step by step, with the time that each step took."""
    rows = [
        [str(i), _text(r.get("step")), _text(r.get("where")), _value(r.get("value")), human_seconds(r.get("seconds"))]
        for i, r in enumerate(t.get("rows") or [], start=1)
    ]
    return f"height {_text(t.get('height'))}\n" + table([">#", "step", "where", "value", ">seconds"], rows)


def evidence(rows: Sequence[Row]) -> str:
    """One line per proven fault: who signed two things for one slot."""
    if not rows:
        return "no evidence: nobody is proven to have signed two things for one slot"
    cells = [
        [short(e.get("node")), _text(e.get("kind")), _text(e.get("height")), _text(e.get("view")), _banned(e)]
        for e in rows
    ]
    return table(["node", "kind", ">height", ">view", "remark"], cells)


def candidates(rows: Sequence[Row]) -> str:
    """The next token's, the likeliest first."""
    cells = [
        [f"{100 * float(row['probability']):.2f}%", _text(row.get("token")), repr(str(row.get("text")))] for row in rows
    ]
    return table(["probability", "token", "text"], cells)


def generated(f: Row) -> list[str]:
    """Where a text comes from and what it took, in a line; a second one where not all of the prompt was read."""
    height = f"height {f['height']}" if f.get("height") is not None else None
    origin = f"root {root(f['model_root'])}" if f.get("model_root") is not None else None
    speed = f"{float(f['tokens_per_second']):.0f} tokens/s" if f.get("tokens_per_second") else None
    tokens = f"{_plural(f.get('tokens'), 'token')}, {_ENDED.get(str(f.get('reason')), '')}" if f.get("tokens") else None
    seed = f"seed {f['seed']}" if f.get("seed") is not None else None
    lines = [_join(*(part for part in (height, origin, tokens, speed, seed) if part))]
    if f["prompt_tokens_read"] < f["prompt_tokens"]:
        read, context = _text(f["prompt_tokens_read"]), _text(f.get("context"))
        lines.append(
            f"of the prompt's {f['prompt_tokens']} tokens the last {read} were read: the model's context is {context}"
        )
    return lines


def log(records: Sequence[Row], *, coloured: bool = False) -> str:
    """One line per record."""
    return "\n".join(log_line(record, coloured=coloured) for record in records) or "no log lines yet"


def log_line(record: Row, *, coloured: bool = False) -> str:
    """``14:03:22 peer connected peer=3f2a9c1b``; a level other than info is named."""
    level = str(record.get("level", "info"))
    event = printable(str(record.get("event", "")))
    if level != "info":
        colour: Literal["red", "yellow", "dim"] = (
            "red" if level == "error" else "yellow" if level == "warning" else "dim"
        )
        event = paint(f"{level}: {event}", colour, coloured=coloured)
    hidden = {"time", "level", "event", "traceback"}
    values = " ".join(f"{printable(k)}={_value(v)}" for k, v in record.items() if k not in hidden)
    tail = " (traceback in the log file)" if "traceback" in record else ""
    return f"{_clock(record.get('time'))} {event}{' ' if values else ''}{values}{tail}"


def facts(values: Row) -> str:
    """Any flat answer (``test``, ``train``, ``version``) as aligned names and values; nested ones joined with a space."""
    flat = dict(_flatten(values))
    width = max(map(len, flat), default=0)
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in flat.items())


def setting(value: object) -> str:
    """One value of ``config show``."""
    match value:
        case None:
            return DASH
        case bool():
            return "true" if value else "false"
        case list():
            return " ".join(map(str, value)) or DASH
        case _:
            return printable(str(value))


# --- pieces --------------------------------------------------------------------------------------------------------------------


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns two spaces apart; a header that starts with ``>`` is for a column aligned right."""
    right = [header.startswith(">") for header in headers]
    lines = [[header.removeprefix(">") for header in headers], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def short(node: object) -> str:
    """The first eight digits of a node id."""
    return printable(str(node))[:NODE_CHARACTERS] if node else DASH


def root(digest: object) -> str:
    """The first twelve digits of a digest."""
    return printable(str(digest))[:ROOT_CHARACTERS] if digest else DASH


def printable(text: str) -> str:
    """The text with control characters escaped, so that a stranger's words cannot drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines: only these and tabs are left as they are."""
    return re.sub(r"[^\n\t]+", lambda part: printable(part[0]), text)


def human_bytes(count: object) -> str:
    """Decimal units: ``12.3 MB``."""
    if not isinstance(count, int | float):
        return DASH
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return DASH


def human_seconds(seconds: object) -> str:
    """``4 ms``, ``0.81 s``, ``12.3 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if not isinstance(seconds, int | float):
        return DASH
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {name}"
    return f"{whole} s"


def paint(text: str, colour: Literal["green", "yellow", "red", "dim"], *, coloured: bool) -> str:
    """The text in a colour, if this goes to a terminal."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if coloured else text


_HEX = re.compile(r"[0-9a-f]{40,}")


def _join(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _text(value: object, missing: str = DASH) -> str:
    return missing if value is None or value == "" else printable(str(value))


def _value(value: object) -> str:
    """A value inside a line: ids and digests cut, times and lists readable."""
    if value is None:
        return DASH
    if isinstance(value, list):
        return "[" + " ".join(_value(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _HEX.sub(lambda m: m[0][: NODE_CHARACTERS if len(m[0]) == 40 else ROOT_CHARACTERS], printable(str(value)))


def _flatten(values: Row, prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{printable(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{name} ")
        elif name.endswith("seconds") or prefix.strip() == "seconds":
            pairs.append((name, human_seconds(value)))
        elif name.endswith("bytes"):
            pairs.append((name, human_bytes(value)))
        else:
            pairs.append((name, _text(value)))
    return pairs


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else DASH


def _percent(value: object, of: str) -> str:
    return f"{value * 100:.0f} % {of}" if isinstance(value, int | float) else ""


def _plural(count: object, noun: str) -> str:
    return f"{_text(count)} {noun}" if count == 1 else f"{_text(count)} {noun}s"


def _parameters(count: object) -> str:
    if not isinstance(count, int):
        return ""
    for size, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {name} parameters"
    return f"{count} parameters"


def _name(s: Row) -> str:
    """The name, where it says more than the id does."""
    name = _text(s.get("name"), "")
    return "" if str(s.get("node")).startswith(name) else name


def _uptime(s: Row) -> str:
    pid = f" (pid {s['pid']})" if s.get("pid") else ""
    return f"up {human_seconds(s.get('uptime_seconds'))}{pid}"


def _people(s: Row) -> dict[str, str]:
    """Lines about members that are absent and nodes that were caught, where there are any."""
    absent = [f"{short(a.get('node'))} since height {_text(a.get('since_height'))}" for a in s.get("absent") or []]
    last = {short(b.get("node")): _text(b.get("until_height")) for b in s.get("banned") or []}
    banned = [f"{node} until height {until}" for node, until in last.items()]
    return {name: ", ".join(who) for name, who in (("absent", absent), ("banned", banned)) if who}


def _banned(row: Row) -> str:
    return f"evicted, banned until height {_text(row['banned_until'])}" if row.get("banned_until") else ""


def _changes(r: Row) -> str:
    """Who came and went with this block: ``+3f2a9c1b -77aa01bc (left)``."""
    joined = [f"+{short(node)}" for node in r.get("joined") or []]
    left = [f"-{short(gone.get('node'))} ({_text(gone.get('why'))})" for gone in r.get("left") or []]
    return " ".join([*joined, *left])


def _training(t: Row) -> str:
    state = _text(t.get("state"))
    until = f" until height {t['until_height']}" if t.get("until_height") is not None else ""
    step = f", step {t.get('step')} of {t['steps']}" if state == "training" and t.get("steps") else ""
    left_out = f"; {printable(str(t['left_out']))}" if t.get("left_out") else ""
    return f"{state}{until}{step}{left_out}"


def _losses(s: Row) -> str:
    if s.get("loss") is None and s.get("validation_loss") is None:
        return "none yet"
    at = f" at height {s['loss_height']}" if s.get("loss_height") is not None else ""
    held_out = f"held-out {_number(s.get('validation_loss'))}" if s.get("validation_loss") is not None else ""
    return _join(f"{_number(s.get('loss'))} {_text(s.get('loss_unit') or 'nats')}{at}", held_out)


def _speed(s: Row) -> dict[str, str]:
    """``1234 tokens/s on cuda in bf16, compiled, 41 % of its peak``, once there was a round of it."""
    rate, share = s.get("tokens_per_second"), s.get("model_flops_utilization")
    if not isinstance(rate, int | float):
        return {}
    peak = f"{share * 100:.0f} % of its peak" if isinstance(share, int | float) else "its peak is unknown"
    how = f"{rate:.0f} tokens/s on {_text(s.get('device'))} in {_text(s.get('precision'))}"
    return {"speed": ", ".join(part for part in (how, str(s.get("compilation") or ""), peak) if part)}


def _clock(time: object) -> str:
    """The local time of day of an ISO time stamp."""
    try:
        return datetime.fromisoformat(str(time)).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"
