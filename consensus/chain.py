"""What a node knows after a decided height, and what the next block must look like on top of it.

`ChainState` is immutable; `after` gives the next one. `check_block` and `build_block` are the two halves of one rule and stand
side by side for that reason. Not here: payload bytes and the model; only their digests pass through.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.advance import BlockContent, advance, evidence_problem, requests_problem, weights
from consensus.block import (
    VERSION,
    Block,
    BlockHeader,
    certificate_hash,
    contributions_hash,
    evidence_hash,
    requests_hash,
)
from consensus.certificate import CommitCertificate, check_certificate
from consensus.encoding import digest
from consensus.errors import LocalFault
from consensus.evidence import Evidence, check_evidence
from consensus.identifiers import Digest, PublicKey, Verify
from consensus.membership import Membership
from consensus.requests import Request, check_request
from consensus.rules import Rules
from consensus.votes import Contribution


@dataclass(frozen=True, slots=True)
class ChainState:
    """After the block of `height` (0: the genesis, which has no block, no certificate and the chain id for a hash)."""

    chain_id: Digest
    rules: Rules
    height: int
    block_hash: Digest
    model_root: Digest
    membership: Membership
    last_certificate: CommitCertificate | None

    @classmethod
    def genesis(
        cls, chain_id: Digest, *, rules: Rules, founders: Iterable[PublicKey], model_root: Digest
    ) -> "ChainState":
        membership = Membership.founding(founders, rules)
        return cls(chain_id, rules, 0, digest(b"genesis", chain_id), model_root, membership, None)

    def after(self, block: Block, certificate: CommitCertificate) -> "ChainState":
        """The state that this decided block leads to; the caller has checked both."""
        if block.header.previous != self.block_hash or certificate.block_hash != block.hash:
            raise LocalFault(f"block {block.hash.hex()[:12]} does not follow height {self.height}")
        return ChainState(
            chain_id=self.chain_id,
            rules=self.rules,
            height=block.height,
            block_hash=block.hash,
            model_root=block.header.model_root,
            membership=advance(self.membership, _content_of(block), self.rules),
            last_certificate=certificate,
        )


@dataclass(frozen=True, slots=True)
class BlockTemplate:
    """All of the next block that the engine knows; contributions and the resulting root are the driver's to add."""

    state: ChainState
    proposer: PublicKey
    evidence: tuple[Evidence, ...] = ()
    requests: tuple[Request, ...] = ()


def build_block(template: BlockTemplate, *, contributions: Iterable[Contribution], model_root: Digest) -> Block:
    """The block that `check_block` accepts, given contributions of the next height in any order."""
    state, membership = template.state, template.state.membership
    listed = tuple(sorted(contributions, key=lambda c: (c.author, c.purpose)))
    content = BlockContent(
        height=state.height + 1,
        proposer=template.proposer,
        signers=() if state.last_certificate is None else state.last_certificate.authors(),
        contributions=listed,
        evidence=template.evidence,
        requests=template.requests,
    )
    header = BlockHeader(
        version=VERSION,
        chain_id=state.chain_id,
        height=state.height + 1,
        previous=state.block_hash,
        proposer=template.proposer,
        committee_hash=membership.current.hash,
        next_committee_hash=membership.next.hash,
        membership_hash=advance(membership, content, state.rules).hash,
        last_certificate_hash=certificate_hash(state.last_certificate),
        contributions_hash=contributions_hash(listed),
        evidence_hash=evidence_hash(template.evidence),
        requests_hash=requests_hash(template.requests),
        previous_root=state.model_root,
        model_root=model_root,
    )
    return Block(header, listed, template.evidence, template.requests, state.last_certificate)


def contribution_problem(contribution: Contribution, state: ChainState) -> str | None:
    """Why the block after `state` may not list it (its signature and payload apart), or None."""
    if contribution.height != state.height + 1:
        return "a contribution for another height"
    if contribution.base_root != state.model_root:
        return "a contribution computed from another model"
    if contribution.codec != state.rules.codec:
        return "a contribution in another codec than the network's"
    if state.membership.banned(contribution.author, height=contribution.height):
        return "a contribution of somebody who was caught"  # rule M8
    return None


def check_block(block: Block, state: ChainState, verify: Verify) -> str | None:
    """Why this block may not follow `state`, or None. Cheap checks first, signatures last.  # rule B2"""
    return _check_links(block, state) or _check_body(block, state) or _check_signatures(block, state, verify)


def _check_links(block: Block, state: ChainState) -> str | None:
    header, membership = block.header, state.membership
    if header.version != VERSION:
        return f"block version {header.version}"
    if header.chain_id != state.chain_id:
        return "a block of another chain"
    if header.height != state.height + 1 or header.previous != state.block_hash:
        return "a block that does not follow the last decided one"
    if header.proposer not in membership.current:
        return "a block proposed by a non-member"
    if header.committee_hash != membership.current.hash or header.next_committee_hash != membership.next.hash:
        return "a block that names another committee"
    if header.previous_root != state.model_root:
        return "a block on another model"
    return None


def _check_body(block: Block, state: ChainState) -> str | None:
    header = block.header
    for contribution in block.contributions:
        problem = contribution_problem(contribution, state)
        if problem is not None:
            return problem
    if header.model_root != header.previous_root and not any(weights(block.contributions, state.membership.current)):
        return "a new model without an update that weighs anything"  # rule B3
    for proof in block.evidence:
        problem = evidence_problem(proof, state.membership, height=header.height)
        if problem is not None:
            return problem
    problem = requests_problem(block.requests, state.membership, height=header.height, rules=state.rules)
    if problem is not None:
        return problem
    if header.membership_hash != advance(state.membership, _content_of(block), state.rules).hash:
        return "a block that leads to another membership"
    return None


def _check_signatures(block: Block, state: ChainState, verify: Verify) -> str | None:
    problem = _check_last_certificate(block.last_certificate, state, verify)
    if problem is not None:
        return problem
    for contribution in block.contributions:
        if not verify(contribution.author, contribution.statement(state.chain_id), contribution.signature):
            return "a contribution that its author did not sign"
    for proof in block.evidence:
        problem = check_evidence(proof, chain_id=state.chain_id, verify=verify)
        if problem is not None:
            return problem
    for request in block.requests:
        problem = check_request(request, chain_id=state.chain_id, verify=verify)
        if problem is not None:
            return problem
    return None


def _content_of(block: Block) -> BlockContent:
    return BlockContent(
        height=block.height,
        proposer=block.header.proposer,
        signers=() if block.last_certificate is None else block.last_certificate.authors(),
        contributions=block.contributions,
        evidence=block.evidence,
        requests=block.requests,
    )


def _check_last_certificate(certificate: CommitCertificate | None, state: ChainState, verify: Verify) -> str | None:
    """A block carries the decision before it, checked against the committee that made that decision.  # rule B4"""
    if state.height == 0:
        return None if certificate is None else "a certificate for the genesis"
    if certificate is None:
        return "a block without its predecessor's certificate"
    if certificate.height != state.height or certificate.block_hash != state.block_hash:
        return "a certificate of another block"
    return check_certificate(certificate, state.membership.previous, chain_id=state.chain_id, verify=verify)
