"""The same engine with Ed25519 for real: four nodes, encoded messages, growth from one to four; and what a bad key does."""

from collections import deque

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
    MessageReceived,
    PublicKey,
    Purpose,
    Rules,
    Signature,
    StartHeight,
    build_block,
    decode_message,
)
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
    from dataclasses import replace

    from consensus import check_certificate

    nodes = network(4)
    certificate = run(nodes, 1)[0][0].certificate
    committee = nodes[0].state.membership.current
    assert check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=verify) is None
    (a, first), (b, _), *rest = certificate.signers
    framed = replace(certificate, signers=((a, first), (b, first), *rest))
    assert check_certificate(framed, committee, chain_id=CHAIN_ID, verify=verify) is not None
