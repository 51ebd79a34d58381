"""`config.json`, both ways: what transformers can say comes back as it was, and everything else is refused by name."""

import json
from typing import Any

import pytest

from model.config import PRESETS, ModelConfig
from model.errors import InterchangeError
from model.interchange.config_json import from_document, to_document
from tests.model.decoders import variant

# As their makers published them, but for what a decoder does not read.
LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                     "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
    "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128, "tie_word_embeddings": False,
    "rope_scaling": LLAMA_1B["rope_scaling"] | {"factor": 8.0},
}  # fmt: skip
MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
}  # fmt: skip
MIXTRAL_8X7B = MISTRAL_7B | {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2,
    "rope_theta": 1000000.0, "sliding_window": None, "router_aux_loss_coef": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "parameters"),
    [(LLAMA_1B, 1_235_814_400), (LLAMA_8B, 8_030_261_248), (MISTRAL_7B, 7_241_732_096), (MIXTRAL_8X7B, 46_702_792_704)],
)
def test_the_models_in_use_have_their_known_number_of_parameters(document: dict[str, Any], parameters: int) -> None:
    assert from_document(document).parameters == parameters


def test_every_field_of_theirs_is_one_of_ours() -> None:
    config = from_document(LLAMA_1B)
    assert config == ModelConfig(
        width=2048, layers=16, heads=32, key_value_heads=8, feed_forward=8192, context=131072, rope_base=500_000,
        vocabulary=128256, rope_factor=32, tied_head=True,
    )  # fmt: skip
    assert not from_document(LLAMA_8B).tied_head and from_document(LLAMA_8B).rope_factor == 8
    assert (from_document(MISTRAL_7B).attention, from_document(MISTRAL_7B).window) == ("window", 4096)
    mixtral = from_document(MIXTRAL_8X7B)
    assert (mixtral.experts, mixtral.experts_per_token, mixtral.balance_loss, mixtral.attention) == (
        8,
        2,
        "0.02",
        "full",
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_comes_back(name: str) -> None:
    document = json.loads(json.dumps(to_document(PRESETS[name], end=None)))
    assert from_document(document) == PRESETS[name]
    assert ("p2pnode" in document) == (PRESETS[name].initial_gain != 1)


@pytest.mark.parametrize(
    "config",
    [
        variant("untied"), variant("rope-scaled"), variant("window", window=16), variant("experts", attention="window", window=5),
        variant("experts", experts=1, experts_per_token=1, normalize_top_k=False), variant("experts-all"),
        variant("llama", dropout="0.1", checkpointing="layer", norm_epsilon="1e-5", initial_gain=3),
        variant("experts", balance_loss="0.5", router_z_loss="0"), variant("llama", norm_epsilon="0.000001234"),
    ],
)  # fmt: skip
def test_what_only_training_reads_comes_back_too(config: ModelConfig) -> None:
    assert from_document(json.loads(json.dumps(to_document(config, end=7)))) == config


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("layer-norm-gelu", "norm is layer"), ("relu", "activation is relu"), ("learned-positions", "positions is learned"),
        ("sinusoidal-positions", "positions is sinusoidal"), ("block-sparse", "attention is block-sparse"),
        ("sinks", "attention_sinks is True"), ("experts-odd", "shared_experts is 2"), ("switch", "normalize_top_k is False"),
    ],
)  # fmt: skip
def test_what_they_have_no_word_for_is_refused(name: str, what: str) -> None:
    with pytest.raises(InterchangeError, match=f"this model cannot be exported: {what}"):
        to_document(variant(name), end=None)


def test_the_names_of_transformers_5_are_read_and_defaults_are_theirs() -> None:
    new = {key: value for key, value in LLAMA_1B.items() if key not in ("rope_theta", "rope_scaling")}
    rope = LLAMA_1B["rope_scaling"] | {"rope_theta": 500000.0}
    assert from_document(new | {"rope_parameters": rope}) == from_document(LLAMA_1B)
    assert from_document(new | {"rope_parameters": {"rope_type": "default", "rope_theta": 70000}}).rope_base == 70_000
    bare = {
        key: value
        for key, value in MISTRAL_7B.items()
        if key not in ("rope_theta", "sliding_window", "num_key_value_heads", "hidden_act")
    }
    assert from_document(bare) == from_document(MISTRAL_7B)
    assert from_document(LLAMA_1B | {"num_key_value_heads": None}).key_value_heads == 32
    assert from_document(MISTRAL_7B | {"sliding_window": 40000}).attention == "full"  # never left
    long = from_document(LLAMA_1B | {"rms_norm_eps": 9.999999747378752e-06})  # 1e-5 in float32, as some folders have it
    assert float(long.norm_epsilon) == 9.999999747378752e-06 and from_document(to_document(long, end=None)) == long
    assert from_document(LLAMA_1B | {"rope_scaling": {"type": "default"}}).rope_factor == 1
    assert from_document(LLAMA_1B | {"rope_scaling": LLAMA_1B["rope_scaling"] | {"factor": 1.0}}).rope_factor == 1


SCALING = LLAMA_1B["rope_scaling"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rope_theta": 1e300}, "rope_theta is 1e+300; p2pnode takes whole numbers"),
        ({"num_hidden_layers": 10**1000}, "num_hidden_layers is 1000"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; known are llama, mistral, mixtral"),
        ({"model_type": ["llama"]}, "model_type is"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; p2pnode has 'silu'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"layer_types": ["full_attention"]}, "layer_types is"),
        ({"head_dim": 127}, "width must be heads times an even head size"),
        ({"head_dim": -64}, "head_dim is -64, allowed are 0 to 16384"),
        ({"head_dim": "64"}, "head_dim is '64'; p2pnode takes whole numbers there"),
        ({"num_attention_heads": 0}, "heads is 0"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"hidden_size": "2048"}, "hidden_size is '2048'; p2pnode takes whole numbers there"),
        ({"hidden_size": True}, "hidden_size is true"),
        ({"hidden_size": 2048.5}, "hidden_size is 2048.5"),
        ({"hidden_size": 10**30, "head_dim": None}, "hidden_size is 1000000000"),
        ({"num_hidden_layers": 10**6}, "layers is 1000000, allowed are 1 to 256"),
        ({"vocab_size": -1}, "vocabulary is -1"),
        ({"vocab_size": float("nan")}, "vocab_size is NaN"),
        ({"num_attention_heads": 30, "head_dim": None}, "width must be heads times an even head size"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny', and no number"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is Infinity, and no number"),
        ({"rms_norm_eps": 1e-30}, "norm_epsilon is '1E-30'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; true or false is expected"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is of type 'linear'; p2pnode has default and llama3"),
        ({"rope_scaling": SCALING | {"factor": 8.5}}, "factor is 8.5"),
        ({"rope_scaling": SCALING | {"attention_factor": 1.0}}, "rope_scaling has 'attention_factor'"),
        ({"rope_scaling": "llama3"}, "rope_scaling is 'llama3'"),
        ({"rope_scaling": SCALING | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5; p2pnode has 1"),
        ({"p2pnode": {"layers": 3}}, "p2pnode is"),
        ({"p2pnode": {"norm_epsilon": "0.1"}}, "rms_norm_eps is 1e-05, and p2pnode says '0.1'"),
        ({"p2pnode": {"initial_gain": 10**9}}, "initial_gain is 1000000000"),
    ],
)  # fmt: skip
def test_the_first_mismatch_is_named(change: dict[str, Any], what: str) -> None:
    with pytest.raises(InterchangeError) as caught:
        from_document(LLAMA_1B | change)
    assert caught.value.message.startswith(f"config.json: {what}") and caught.value.hint
    assert len(caught.value.message) < 200
