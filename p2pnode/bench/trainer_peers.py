"""One contestant of ``scripts/bench trainer``: the same model and the same steps, in one library. Run as a program, never imported.

``python trainer_peers.py NAME PRECISION THREADS ALLOCATOR`` makes the model and warms up, says in one line of JSON what it is, and then makes
a step for each line that it reads and answers with what that took. NAME is ``p2pnode``, ``transformers``, ``litgpt`` or ``x-transformers``;
litgpt needs an environment of its own, so nothing but torch and that library is imported. ALLOCATOR is ``tuned`` or ``system``.

The others get the whole batch at once, cross-entropy, clipping and torch's fused AdamW, each called as its documentation does. Ours is what
a node runs: ``Learner.step``.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# 15.73 M parameters in Llama's layout, as in the figures that this is compared with
VOCABULARY, WIDTH, LAYERS, HEADS, KEY_VALUE_HEADS, FEED_FORWARD = 8192, 384, 6, 6, 2, 1024
BATCH, SEQUENCE = 8, 256
WARM_UP_STEPS = 2


def ours(precision: str) -> tuple[int, Callable[[], float]]:
    from model.config import ModelConfig, TrainingConfig
    from model.initial import initial_parameters
    from model.learner import Learner

    config = ModelConfig(
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        key_value_heads=KEY_VALUE_HEADS,
        feed_forward=FEED_FORWARD,
        context=SEQUENCE,
        vocabulary=VOCABULARY,
        tied_head=False,
    )
    learner = Learner(config, TrainingConfig(batch=BATCH, sequence=SEQUENCE), precision=precision)
    learner.load(initial_parameters(config, 1))
    windows = text().numpy()

    def step() -> float:
        loss = learner.step(windows, network_step=0, seed=0)
        assert loss is not None
        return loss

    return config.parameters, step


def transformers() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    library = importlib.import_module("transformers")
    config = library.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return library.LlamaForCausalLM(config), lambda model, tokens: model(input_ids=tokens).logits


def litgpt() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    library = importlib.import_module("litgpt")
    config = library.Config(
        padded_vocab_size=VOCABULARY,
        vocab_size=VOCABULARY,
        block_size=SEQUENCE,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_query_groups=KEY_VALUE_HEADS,
        intermediate_size=FEED_FORWARD,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    return library.GPT(config), lambda model, tokens: model(tokens)


def x_transformers() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    library = importlib.import_module("x_transformers")
    decoder = library.Decoder(
        dim=WIDTH,
        depth=LAYERS,
        heads=HEADS,
        attn_kv_heads=KEY_VALUE_HEADS,
        attn_dim_head=WIDTH // HEADS,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_mult=FEED_FORWARD / WIDTH,
        ff_no_bias=True,
        attn_flash=True,
    )
    model = library.TransformerWrapper(
        num_tokens=VOCABULARY, max_seq_len=SEQUENCE, attn_layers=decoder, use_abs_pos_emb=False, tie_embedding=False
    )
    return model, lambda model, tokens: model(tokens)


PEERS = {"transformers": transformers, "litgpt": litgpt, "x-transformers": x_transformers}


def theirs(name: str, precision: str) -> tuple[int, Callable[[], float]]:
    model, logits = PEERS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    windows = text()
    tokens, targets = windows[:, :-1], windows[:, 1:].flatten()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(logits(model, tokens).flatten(0, 1), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return sum(parameter.numel() for parameter in model.parameters()), step


def text() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, VOCABULARY, (BATCH, SEQUENCE + 1), generator=generator)


def tune_allocator() -> None:
    """As our nodes do, by the same file: it needs nothing but the standard library."""
    place = os.path.join(os.path.dirname(__file__), "..", "..", "model", "allocator.py")  # noqa: PTH118, PTH120
    spec = importlib.util.spec_from_file_location("allocator", place)
    assert spec is not None and spec.loader is not None
    allocator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(allocator)
    allocator.tune_host_allocator()


def peak_resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    name, precision, threads, allocator = sys.argv[1:]
    if allocator == "tuned":
        tune_allocator()
    torch.set_num_threads(int(threads))
    parameters, step = ours(precision) if name == "p2pnode" else theirs(name, precision)
    losses = [step() for _ in range(WARM_UP_STEPS)]
    version = importlib.metadata.version(name)
    say({"version": version, "torch": torch.__version__, "parameters": parameters, "losses": losses})
    while sys.stdin.readline():
        wall, processor = time.perf_counter(), time.process_time()
        loss = step()
        say(
            {
                "seconds": time.perf_counter() - wall,
                "processor_seconds": time.process_time() - processor,
                "loss": loss,
                "peak_resident_bytes": peak_resident_bytes(),
            }
        )


if __name__ == "__main__":
    main()
