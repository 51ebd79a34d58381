"""The model card of an exported folder: what the model is, which decision it comes from, and how to check that.

What it is: text for people, from facts that the chain certifies. What it is not: evidence; the chain beside it is.
"""

import textwrap

import consensus
from p2pnode.genesis import Genesis

CHAIN = "chain.p2pnode"


def model_card(genesis: Genesis, state: consensus.ChainState, certificate: bytes) -> str:
    """``certificate``: that of the block of ``state``, encoded; empty at height 0."""
    return "\n".join([_HEAD, *_table(genesis, state), "", _USE, _certificate(state, certificate), _VERIFY])


def _table(genesis: Genesis, state: consensus.ChainState) -> list[str]:
    model, training = genesis.model, genesis.training
    shape = f"{model.layers} layers of width {model.width}, {model.heads} heads ({model.key_value_heads} of keys)"
    if model.experts:
        shape += f", {model.experts} experts of which a token meets {model.experts_per_token}"
    rows = {
        "network": f"`{genesis.chain_id.hex()}`",
        "height": str(state.height),
        "block": f"`{state.block_hash.hex()}`" if state.height else "none yet",
        "model root": f"`{state.model_root.hex()}`",
        "first model": _origin(genesis),
        "members": str(len(state.membership.current)),
        "parameters": f"{model.parameters}, float32",
        "decoder": f"{shape}, a context of {model.context} tokens",
        "training": f"{training.optimizer}, {training.local_steps} steps a round of {training.batch} windows of {training.sequence}",
        "rounding": "none"
        if training.quantization == "none"
        else f"learned for matrices in {training.quantization}, and not rounded here",
        "text": f"`{genesis.corpus_digest.hex()}`, {genesis.corpus_bytes} bytes",
    }
    return ["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _origin(genesis: Genesis) -> str:
    if genesis.refounded is not None:
        origin = genesis.refounded
        return f"that of height {origin.height} of network `{origin.network.hex()}`, block `{origin.block.hex()}`"
    return f"imported, `{genesis.model_root.hex()}`" if genesis.imported else "drawn from the genesis"


def _certificate(state: consensus.ChainState, certificate: bytes) -> str:
    if not certificate:
        return "## Certificate\n\nNone yet: this is the first model, whose root the genesis names.\n"
    decoded = consensus.decode_certificate(certificate)
    assert isinstance(decoded, consensus.CommitCertificate)
    signers = "\n".join(f"- `{author.hex()}`" for author, _ in decoded.signers)
    text = textwrap.fill(certificate.hex(), 96)
    return (
        f"## Certificate\n\nThese members signed the COMMIT of block {state.height} in view {decoded.view}:\n\n{signers}\n\n"
        f"The certificate with their signatures, as {CHAIN} has it (docs/wire-format.md, section 11):\n\n```\n{text}\n```\n"
    )


_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- p2pnode
---

# A model that a network agreed on

The members of a p2pnode network trained this model together. More than two thirds of them recomputed and signed every update; all of
them held the same parameters, byte for byte, at this height.
"""

_USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```
"""

_VERIFY = f"""## Verify

```
p2pnode verify .
```

checks `{CHAIN}` from the genesis on (each block, each certificate with the committee of its height), computes the model root of the
parameters in this folder, and compares it with the certified one. It asks nobody and trusts nobody. What it cannot know is whether this is
the network that you mean: compare its id with one that you have from a member (`p2pnode status`).
"""
