"""The decoder: embedding, layers of (norm, attention, norm, feed-forward) with residuals, norm, tied output.

Read this file first, then attention.py and feed_forward.py. Free-form floating point: nothing here is replicated.
"""

from torch import Tensor, nn
from torch.nn import functional

from model.attention import Attention, Rotary
from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.flat import Weights


class Transformer(nn.Module):
    """Byte tokens (batch, time) to logits (batch, time, 256). `weights` are views into FlatParameters."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        self.rotary = Rotary(config)
        self.embedding = weights["model.embed_tokens.weight"]
        self.layers = nn.ModuleList(Layer(config, weights, f"model.layers.{i}") for i in range(config.layers))
        self.norm = Norm(config, weights["model.norm.weight"])

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = functional.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, self.rotary)
        return functional.linear(self.norm(x), self.embedding)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean nats per byte of predicting windows[:, 1:] from windows[:, :-1]; windows are (batch, time + 1)."""
        logits: Tensor = self(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.before_attention = Norm(config, weights[f"{name}.input_layernorm.weight"])
        self.attention = Attention(config, weights, f"{name}.self_attn")
        self.before_feed_forward = Norm(config, weights[f"{name}.post_attention_layernorm.weight"])
        self.feed_forward = FeedForward(weights, f"{name}.mlp")

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        x = x + self.attention(self.before_attention(x), rotary)
        result: Tensor = x + self.feed_forward(self.before_feed_forward(x))
        return result


class Norm(nn.Module):
    """Root-mean-square norm with a gain for each of `width` features (Zhang and Sennrich 2019)."""

    def __init__(self, config: ModelConfig, gain: nn.Parameter) -> None:
        super().__init__()
        self.gain = gain
        self.epsilon = float(config.norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.gain.shape, self.gain, self.epsilon)
