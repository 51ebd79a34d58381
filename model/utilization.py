"""Which share of what the device could do at best went into the model: model FLOPs utilisation, or None.

Counted is what the mathematics of a step needs, not what the machine did: 6 operations a token for each parameter in a
matrix product (2 forward, 4 backward), and 12 a layer, feature and visible token for attention, without regard to
causality (Chowdhery et al. 2022, "PaLM", appendix B). What checkpointing computes again does not count.

A peak is the vendor's dense figure for exactly the named part, from its data sheet. Another variant (a laptop's, a slice of
a part) has another peak and the like name, so a name that is not here is unknown, and so is every processor: no figure is
better than a wrong one.
"""

from typing import Final

from model.config import ModelConfig

# name as torch gives it -> precision -> floating-point operations a second; fp32 without TF32, which we never switch on
_A100: Final = {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}
_H100: Final = {"bf16": 989.4e12, "fp16": 989.4e12, "fp32": 66.9e12}
_V100: Final = {"fp16": 125e12, "fp32": 15.7e12}
PEAKS: Final[dict[str, dict[str, float]]] = {
    "NVIDIA B200": {"bf16": 2250e12, "fp16": 2250e12},
    "NVIDIA H200": _H100,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "fp32": 51.2e12},
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A10": {"bf16": 125e12, "fp16": 125e12, "fp32": 31.2e12},
    "NVIDIA A30": {"bf16": 165e12, "fp16": 165e12, "fp32": 10.3e12},
    "NVIDIA A40": {"bf16": 149.7e12, "fp16": 149.7e12, "fp32": 37.4e12},
    "NVIDIA L4": {"bf16": 121e12, "fp16": 121e12, "fp32": 30.3e12},
    "NVIDIA L40S": {"bf16": 362e12, "fp16": 362e12, "fp32": 91.6e12},
    "NVIDIA GeForce RTX 3090": {"bf16": 71e12, "fp16": 71e12, "fp32": 35.6e12},
    "NVIDIA GeForce RTX 4090": {"bf16": 165.2e12, "fp16": 165.2e12, "fp32": 82.6e12},
    "Tesla V100-SXM2-16GB": _V100,
    "Tesla V100-SXM2-32GB": _V100,
    "Tesla T4": {"fp16": 65e12, "fp32": 8.1e12},
}


def training_flops_per_token(config: ModelConfig, sequence: int) -> int:
    """Floating-point operations of forward and backward for one token in windows of `sequence`."""
    looked_up = config.vocabulary * config.width * (not config.tied_head)  # rows that no product touches
    looked_up += config.context * config.width * (config.positions == "learned")
    attention = 12 * config.layers * config.query_width * _visible(config, sequence)
    return 6 * (config.active_parameters - looked_up) + attention


def utilization(flops: float, seconds: float, *, device_name: str, precision: str) -> float | None:
    """The share of the peak, 0 to 1; None where the peak is not known."""
    peak = PEAKS.get(device_name, {}).get(precision)
    return flops / seconds / peak if peak is not None and seconds > 0 else None


def device_name(device: str) -> str:
    """What torch calls it; a processor is "cpu" whatever it is."""
    if device.startswith("cpu"):
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def _visible(config: ModelConfig, sequence: int) -> int:
    """How many tokens a token sees at most."""
    match config.attention:
        case "window":
            return min(sequence, config.window)
        case "block-sparse":
            blocks = config.sparse_local + -(-sequence // (config.sparse_block * config.sparse_stride))
            return min(sequence, config.sparse_block * blocks)
        case _:
            return sequence
