"""What the nodes say about themselves over their control sockets, as values.

What it is: the few fields of ``/status``, ``/rounds`` and ``/evidence`` that the harness uses. What it is not: a
computation; nothing here is derived from anything but what a node said.

For editors: a missing or misshapen field is a bug of ours (the nodes are this very version), so it raises and is not
papered over.
"""

from dataclasses import dataclass
from typing import Any, NewType

NodeId = NewType("NodeId", str)
Json = Any  # what json.loads returns

# The phases in which a height is undecided, in their order (the control API's names).
ROUND_PHASES = ("learn", "collect", "propose", "prepare", "commit")


@dataclass(frozen=True, slots=True)
class Status:
    """``/status``. ``height`` is the last decided one, so ``height + 1`` is the one being worked on."""

    node: NodeId
    height: int
    view: int
    phase: str
    model_root: str
    members: int
    members_reachable: int
    until_height: int | None
    step: int
    steps: int
    loss: float | None
    loss_height: int | None
    parameters: int
    tokens_total: int
    bytes_sent_total: int
    compute_fraction: float | None
    evidence: int
    role: str = "member"  # or contributor, observer, joining

    @property
    def undecided_height(self) -> int:
        return self.height + 1


@dataclass(frozen=True, slots=True)
class Round:
    """One line of ``/rounds``: a decided height as this node saw it. ``evicted``: whom its block puts out of the committee; who ``left``
    asked for it."""

    height: int
    view: int
    model_root: str
    contributions: int
    loss: float | None
    agree_seconds: float | None
    payload_bytes: int | None
    evicted: tuple[NodeId, ...] = ()
    joined: tuple[NodeId, ...] = ()
    left: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """One line of ``/evidence``: who signed two things for one slot."""

    node: NodeId
    kind: str
    height: int


def status_from(document: Json) -> Status:
    training = document["training"]
    return Status(
        node=NodeId(document["node"]),
        height=document["height"],
        view=document["view"],
        phase=document["phase"],
        model_root=document["model_root"],
        members=document["members"],
        members_reachable=document["members_reachable"],
        until_height=training["until_height"],
        step=training["step"],
        steps=training["steps"],
        loss=document["loss"],
        loss_height=document["loss_height"],
        parameters=document["parameters"],
        tokens_total=document["tokens_total"],
        bytes_sent_total=document["bytes_sent_total"],
        compute_fraction=document["compute_fraction"],
        evidence=document["evidence"],
        role=document["role"],
    )


def rounds_from(document: Json) -> tuple[Round, ...]:
    """All rounds in ascending order of height."""
    rows = [
        Round(
            height=row["height"],
            view=row["view"],
            model_root=row["model_root"],
            contributions=row["contributions"],
            loss=row["loss"],
            agree_seconds=row["seconds"].get("agree"),
            payload_bytes=row.get("payload_bytes"),
            evicted=tuple(NodeId(gone["node"]) for gone in row["left"] if gone["why"] != "left"),
            joined=tuple(NodeId(node) for node in row["joined"]),
            left=tuple(NodeId(gone["node"]) for gone in row["left"] if gone["why"] == "left"),
        )
        for row in document
    ]
    return tuple(sorted(rows, key=lambda row: row.height))


def evidence_from(document: Json) -> tuple[EvidenceRow, ...]:
    return tuple(EvidenceRow(NodeId(row["node"]), row["kind"], row["height"]) for row in document)
