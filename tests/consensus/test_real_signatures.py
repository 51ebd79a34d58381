"""The same engine with Ed25519 for real: four nodes, encoded messages, growth from one to four; and what a bad key does."""

from collections import deque
from dataclasses import replace

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from consensus import (
    Begin,
    BlockBuilt,
    BlockChecked,
    Broadcast,
    BuildBlock,
    ChainState,
    CheckBlock,
    Contribution,
    Decide,
    Digest,
    Engine,
    Event,
    Invitation,
    Join,
    MessageReceived,
    PublicKey,
    Purpose,
    Rules,
    Signature,
    StartHeight,
    build_block,
    check_certificate,
    check_evidence,
    decode_message,
    invitation_statement,
    token_statement,
)
from consensus.evidence import evidence_of
from consensus.requests import check_request
from consensus.votes import prepare_statement
from p2pnode.simulation.ledger import CHAIN_ID, ROOT_0, model_root


def verify(author: PublicKey, statement: bytes, signature: Signature) -> bool:
    try:
        VerifyKey(author).verify(statement, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


class Node:
    def __init__(self, seed: int, state: ChainState) -> None:
        self.secret = SigningKey(bytes([seed]) * 32)
        self.me = PublicKey(bytes(self.secret.verify_key))
        self.state = state
        self.engine = Engine(me=self.me, sign=self.sign, verify=verify, state=state)

    def sign(self, statement: bytes) -> Signature:
        return Signature(self.secret.sign(statement).signature)

    def contribution(self) -> Contribution:
        height, root = self.engine.height, self.engine.state.model_root
        draft = Contribution(self.me, height, root, Digest(b"\1" * 32), 9, 1, Purpose.UPDATE, Signature(b""))
        signature = self.sign(draft.statement(CHAIN_ID))
        return Contribution(self.me, height, root, draft.payload_digest, 9, 1, Purpose.UPDATE, signature)


def run(nodes: list[Node], heights: int) -> list[list[Decide]]:
    decided: list[list[Decide]] = [[] for _ in nodes]
    queue: deque[tuple[int, Event]] = deque((i, e) for i in range(len(nodes)) for e in (Begin(), StartHeight(1)))
    while queue:
        i, event = queue.popleft()
        for effect in nodes[i].engine.step(event):
            match effect:
                case Broadcast(message):
                    statement = message.statement(CHAIN_ID)
                    assert verify(message.author, statement, message.signature)
                    heard = decode_message(
                        CHAIN_ID,
                        author=message.author,
                        signature=message.signature,
                        statement=statement,
                        attachment=message.attachment(),
                    )
                    queue += [(j, MessageReceived(heard)) for j in range(len(nodes)) if j != i]
                case BuildBlock():
                    offered = [node.contribution() for node in nodes if node.engine.height == effect.height]
                    root = model_root(effect.template.state.model_root, offered)
                    queue.append(
                        (
                            i,
                            BlockBuilt(
                                effect.height,
                                effect.view,
                                build_block(effect.template, contributions=offered, model_root=root),
                            ),
                        )
                    )
                case CheckBlock(block):
                    queue.append((i, BlockChecked(block.hash, True)))
                case Decide():
                    decided[i].append(effect)
                    if effect.block.height < heights:
                        queue.append((i, StartHeight(effect.block.height + 1)))
    return decided


def network(founders: int) -> list[Node]:
    keys = [PublicKey(bytes(SigningKey(bytes([seed]) * 32).verify_key)) for seed in range(1, 5)]
    state = ChainState.genesis(CHAIN_ID, rules=Rules(), founders=keys[:founders], model_root=ROOT_0)
    return [Node(seed, state) for seed in range(1, 5)]


def test_four_nodes_agree() -> None:
    decided = run(network(4), 5)
    assert [len(d) for d in decided] == [5] * 4
    assert all([d.block.hash for d in chain] == [d.block.hash for d in decided[0]] for chain in decided)


def test_one_founder_becomes_four() -> None:
    nodes = network(1)
    decided = run(nodes, 7)
    assert [len(d) for d in decided] == [7] * 4
    assert [len(d.certificate.signers) >= 3 for d in decided[0]] == [False] * 4 + [True] * 3


def test_a_signature_of_somebody_else_is_not_believed_in_a_certificate() -> None:
    nodes = network(4)
    certificate = run(nodes, 1)[0][0].certificate
    committee = nodes[0].state.membership.current
    assert check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=verify) is None
    (a, first), (b, _), *rest = certificate.signers
    framed = replace(certificate, signers=((a, first), (b, first), *rest))
    assert check_certificate(framed, committee, chain_id=CHAIN_ID, verify=verify) is not None


SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",  # the identity
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # order 2
        "0000000000000000000000000000000000000000000000000000000000000000",  # order 4
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
]


def test_nobody_signs_with_a_key_of_small_order() -> None:
    """Under such a key other libraries take one signature for many statements, and so anybody's evidence against its owner."""
    for point in SMALL_ORDER:
        for response in SMALL_ORDER:
            signature = Signature(response + bytes(32))
            for view in range(8):
                one = prepare_statement(CHAIN_ID, 1, view, Digest(b"\1" * 32), -1)
                other = prepare_statement(CHAIN_ID, 1, view, Digest(b"\2" * 32), -1)
                proof = evidence_of(PublicKey(point), (one, signature), (other, signature))
                assert check_evidence(proof, chain_id=CHAIN_ID, verify=verify) is not None


def test_evidence_with_real_keys() -> None:
    culprit, framed = network(2)[:2]
    statements = [prepare_statement(CHAIN_ID, 1, 0, Digest(bytes([n]) * 32), -1) for n in (1, 2)]
    one, other = ((statement, culprit.sign(statement)) for statement in statements)
    proof = evidence_of(culprit.me, one, other)
    assert check_evidence(proof, chain_id=CHAIN_ID, verify=verify) is None
    assert check_evidence(replace(proof, author=framed.me), chain_id=CHAIN_ID, verify=verify) is not None
    half = (other[0], framed.sign(other[0]))
    for author in (culprit.me, framed.me):
        assert check_evidence(evidence_of(author, one, half), chain_id=CHAIN_ID, verify=verify) is not None


def test_an_invitation_lets_in_whoever_holds_its_token_and_nobody_else() -> None:
    member, joiner, thief = network(4)[:3]
    token = SigningKey(b"\7" * 32)
    token_key = PublicKey(bytes(token.verify_key))

    def join(author: Node, signed_for: PublicKey) -> Join:
        signed = member.sign(invitation_statement(CHAIN_ID, token_key, 50))
        mark = Signature(token.sign(token_statement(CHAIN_ID, signed_for)).signature)
        draft = Join(author.me, 1, Invitation(member.me, token_key, 50, signed), mark, Signature(bytes(64)))
        return replace(draft, signature=author.sign(draft.statement(CHAIN_ID)))

    def problem(request: Join) -> str | None:
        return check_request(request, chain_id=CHAIN_ID, verify=verify)

    good = join(joiner, joiner.me)
    assert problem(good) is None
    assert problem(join(thief, joiner.me)) == "a join that its token did not sign"
    assert problem(replace(good, author=thief.me)) == "a request that its author did not sign"
    other = replace(good, invitation=replace(good.invitation, inviter=thief.me))
    again = replace(other, signature=joiner.sign(other.statement(CHAIN_ID)))
    assert problem(again) == "an invitation that its member did not sign"
    longer = replace(good, invitation=replace(good.invitation, expiry_height=51))
    again = replace(longer, signature=joiner.sign(longer.statement(CHAIN_ID)))
    assert problem(again) == "an invitation that its member did not sign"
