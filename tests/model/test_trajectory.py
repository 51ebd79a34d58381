"""Twenty steps of AdamW beside transformers' Llama from the same weights: every loss, every gradient, and where they end."""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.config import ModelConfig, TrainingConfig
from model.initial import initial_parameters
from model.learner import Learner

CONFIG = ModelConfig(width=48, layers=3, heads=6, key_value_heads=2, feed_forward=88, context=40)
TRAINING = TrainingConfig(batch=6, sequence=40, warmup_steps=5)
STEPS = 20


def llama(learner: Learner) -> LlamaForCausalLM:
    sizes = LlamaConfig(
        vocab_size=CONFIG.vocabulary,
        hidden_size=CONFIG.width,
        intermediate_size=CONFIG.feed_forward,
        num_hidden_layers=CONFIG.layers,
        num_attention_heads=CONFIG.heads,
        num_key_value_heads=CONFIG.key_value_heads,
        max_position_embeddings=CONFIG.context,
        rms_norm_eps=float(CONFIG.norm_epsilon),
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(sizes)
    weights = {name: weight.detach().clone() for name, weight in learner.flat.weights.items()}
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    return model


def test_twenty_steps_are_those_of_transformers_and_torch() -> None:
    learner = Learner(CONFIG, TRAINING)
    learner.load(initial_parameters(CONFIG, 1))
    other = llama(learner)
    named = dict(other.named_parameters())
    groups = [
        {"params": [weight for weight in named.values() if weight.dim() > 1], "weight_decay": 0.1},
        {"params": [weight for weight in named.values() if weight.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    generator = np.random.default_rng(1)
    for step in range(STEPS):
        windows = generator.integers(0, 256, (6, 41)) // (1 + 2 * step)  # so that there is something to learn
        ours = learner.step(windows, network_step=step, seed=step)
        tokens = torch.from_numpy(windows)
        loss = other(tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous()).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        assert ours is not None and abs(ours - loss.item()) < 1e-5, step
        for name, weight in named.items():
            found = learner.flat.weights[name].grad
            assert found is not None and weight.grad is not None
            gap = torch.linalg.vector_norm(found - weight.grad) / torch.linalg.vector_norm(weight.grad)
            assert gap < 1e-4, f"step {step}, {name}: {gap}"
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 5)
        optimizer.step()
    for name, weight in named.items():
        assert torch.allclose(learner.flat.weights[name], weight, atol=1e-5), name
