"""Byzantine agreement on one block per height: Tendermint's rules with certificates, as a pure state machine.

`Engine.step(event) -> list[Effect]`. No clock, no randomness, no network, no disk, no model: time enters as an event and
leaves as an effect. SPEC.md has the rules, numbered as the code cites them, and why they are these.

What a driver owes the engine:

 1. Build the `ChainState` from its store and step `Begin()` first. If the log holds records of the undecided height, the
    engine goes on with it at once, without StartHeight.
 2. Step one event at a time, and carry out the effects of one step strictly in order before the next step. Answers
    (BlockBuilt, BlockChecked, BlockReceived) may come in any later step, or never; never from inside a step.
 3. `Persist` is durable (fdatasync) before the next effect that is not a Persist is carried out. If the disk refuses, stop
    voting: never retry. Drop all effects of that step, and this engine, for it has counted votes of its own that nobody may
    see: crash, or follow with a new one whose `me` is None.
 4. Keep every record of undecided heights and hand them back at start, in order. Records of decided heights may be pruned.
    If the log is lost while the key lives on, start with `me=None` until two heights beyond the highest seen are decided.
 5. One engine per key, ever. `KeyElsewhere` says that there is another: this one signs nothing any more, and neither may the
    driver (contributions, requests). Contributions in our name that we did not announce are the driver's to notice.
 6. Verify the signature of every message before `MessageReceived`, with the same Ed25519 library everywhere; decode with
    `decode_message`. Certificates, blocks and evidence are verified by the engine through `verify`, which must not raise.
 7. `Broadcast` and `BroadcastCertificate` go to every peer, members first, best effort; the engine repeats what matters. Do
    not feed them back: the engine has counted its own. Send `engine.greeting()` to a peer that has just connected.
 8. `SetTimer`: step `TimerFired(timer)` after so many seconds. Nothing need be cancelled, stale alarms are ignored.
 9. `BuildBlock`: make the listed payloads durable and compute the root, then `build_block(template, ...)` and `BlockBuilt`.
    Not answering is allowed; the view then changes. List only what `contribution_problem` finds nothing against.
10. `CheckBlock`: fetch the payloads, write them, recompute the root with `weights(...)`, and step `BlockChecked` once. Payloads
    that are listed are on disk before BlockChecked(ok=True), fdatasynced before the COMMIT that may follow.
11. `FetchBlock`: ask the holders, step `BlockReceived` with what comes. It is repeated about every second while missing.
    Others ask us in the same way: answer from the chain, or with `engine.block(hash)`.
12. `Decide`: apply, and make block and certificate durable before any statement of a later height is, or in one flush with
    it: a restart at the height below could not sign (rule X4). The engine has moved on to the next height and waits for
    `StartHeight`, which "collect, then agree" or `HeightWanted` calls for. If our own computation cannot reproduce the
    certified root, stop stepping and repair: the certificate is right.
13. `Behind`: fetch blocks and certificates in order, check each with `check_certificate` and `check_block`, apply them, and step
    `Synced(state)`. The height in it is a claim and gates nothing. Synced may come unasked at any time.
14. `ReportEvidence`: store it, show it, pass it to peers as EvidenceReceived; after a restart step what no block holds yet.
    `Forked`: tell people. The evidence comes by itself.
15. Pass every CONTRIBUTION on as MessageReceived: the engine only watches for two of one slot. Our own are logged by the
    driver before they leave, and after a crash the logged one is sent or none.
16. Measure, and step `DelaysMeasured` now and then; without it the defaults of limits.py hold.
17. `ReportRequest`: pass the request on, and see that a height starts for it in time (`pending_requests`). Our own is stepped as
    MessageReceived and said again, with the height that is then the next, until a block holds it.

`LocalFault` out of `step` is a bug or a broken duty: stop voting. Nothing a peer sends raises.
"""

from consensus.advance import BlockContent, advance, weights
from consensus.block import Block, BlockHeader
from consensus.certificate import (
    Certificate,
    CommitCertificate,
    PrepareCertificate,
    ViewCertificate,
    check_certificate,
    decode_certificate,
)
from consensus.chain import BlockTemplate, ChainState, build_block, check_block, contribution_problem
from consensus.committee import Committee
from consensus.effects import (
    Behind,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
    CheckBlock,
    Decide,
    Effect,
    FetchBlock,
    Forked,
    HeightWanted,
    KeyElsewhere,
    Persist,
    Refused,
    ReportEvidence,
    ReportRequest,
    SetTimer,
)
from consensus.encoding import Kind
from consensus.engine import Engine
from consensus.errors import LocalFault, Malformed
from consensus.events import (
    Begin,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    CertificateReceived,
    DelaysMeasured,
    Event,
    EvidenceReceived,
    MessageReceived,
    StartHeight,
    Synced,
    Timer,
    TimerFired,
    TimerKind,
)
from consensus.evidence import Evidence, EvidenceKind, check_evidence
from consensus.identifiers import NIL, Digest, PublicKey, Sign, Signature, Verify
from consensus.membership import Membership
from consensus.messages import (
    Commit,
    Contribution,
    Message,
    Prepare,
    Proposal,
    ViewStatus,
    decode_message,
)
from consensus.record import Record, RecordKind
from consensus.requests import Invitation, Join, Leave, Request, invitation_statement, token_statement
from consensus.rules import Rules
from consensus.votes import Purpose

__all__ = [
    "NIL",
    "Begin",
    "Behind",
    "Block",
    "BlockBuilt",
    "BlockChecked",
    "BlockContent",
    "BlockHeader",
    "BlockReceived",
    "BlockTemplate",
    "Broadcast",
    "BroadcastCertificate",
    "BuildBlock",
    "Certificate",
    "CertificateReceived",
    "ChainState",
    "CheckBlock",
    "Commit",
    "CommitCertificate",
    "Committee",
    "Contribution",
    "Decide",
    "DelaysMeasured",
    "Digest",
    "Effect",
    "Engine",
    "Event",
    "Evidence",
    "EvidenceKind",
    "EvidenceReceived",
    "FetchBlock",
    "Forked",
    "HeightWanted",
    "Invitation",
    "Join",
    "KeyElsewhere",
    "Kind",
    "Leave",
    "LocalFault",
    "Malformed",
    "Membership",
    "Message",
    "MessageReceived",
    "Persist",
    "Prepare",
    "PrepareCertificate",
    "Proposal",
    "PublicKey",
    "Purpose",
    "Record",
    "RecordKind",
    "Refused",
    "ReportEvidence",
    "ReportRequest",
    "Request",
    "Rules",
    "SetTimer",
    "Sign",
    "Signature",
    "StartHeight",
    "Synced",
    "Timer",
    "TimerFired",
    "TimerKind",
    "Verify",
    "ViewCertificate",
    "ViewStatus",
    "advance",
    "build_block",
    "check_block",
    "check_certificate",
    "check_evidence",
    "contribution_problem",
    "decode_certificate",
    "decode_message",
    "invitation_statement",
    "token_statement",
    "weights",
]
