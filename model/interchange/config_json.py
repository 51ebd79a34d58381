"""`config.json`: what transformers calls a decoder of ours, and what of another's is one of ours.

Three families have the decoders of `model.config` that they can say at all: Llama (every token sees all before it),
Mistral (a window) and Mixtral (experts). Whatever else a network may have chosen is refused by the name of our field, and
whatever else a folder asks for by the name of theirs: a model that computes something else is not the same model.
Written are the names that every version of transformers and most other programs read; read are those of transformers 5, too.

What concerns training alone (dropout, the routers' second loss, checkpointing, `initial_gain`) transformers has no word for,
or one that it does not read: it stands under "p2pnode", where it differs from its default, so that nothing is lost.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any, Final

from model.config import ModelConfig
from model.errors import ConfigError, InterchangeError

FAMILIES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
}
OWN: Final = "p2pnode"
_OWN_FIELDS: Final = ("initial_gain", "dropout", "router_z_loss", "checkpointing", "normalize_top_k", "norm_epsilon")
# Our fields that have one value in all three families.
_SAID: Final[Mapping[str, tuple[object, ...]]] = {
    "norm": ("rms",),
    "activation": ("swiglu",),
    "positions": ("rope",),
    "attention": ("full", "window"),
    "attention_sinks": (False,),
    "shared_experts": (0,),
}
# Their fields that change what a model computes, and the values with which it computes what ours does.
_EXPECTED: Final[Mapping[str, tuple[object, ...]]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "layer_types": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}
_ROPE_KEYS: Final = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_LLAMA3_KEYS: Final = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_DECIMAL_CHARACTERS: Final = 20  # of a decimal in model/config.py
_WHOLE_MAX: Final = 1 << 53  # beyond, a double has gaps, and a message no end
_THETA: Final = {"llama": 10_000, "mistral": 10_000, "mixtral": 1_000_000}  # where a file is silent
_HINT_EXPORT: Final = (
    "transformers' Llama, Mistral and Mixtral cannot say it; p2pnode verify --export hands on the chain, start the node"
)
_HINT_IMPORT: Final = "p2pnode takes folders of Llama, Mistral and Mixtral as transformers writes them"


# --- ours to theirs ---------------------------------------------------------------------------------------------------------


def to_document(config: ModelConfig, *, end: int | None) -> dict[str, Any]:
    """What `config.json` says of a decoder. `end`: the token that ends a text.

    Raises InterchangeError for the first field that transformers cannot say.
    """
    for name, values in _SAID.items():
        if getattr(config, name) not in values:
            raise _unsayable(f"{name} is {getattr(config, name)}")
    if config.experts > config.experts_per_token and not config.normalize_top_k:
        raise _unsayable("normalize_top_k is False")
    family = "mixtral" if config.experts else "mistral" if config.attention == "window" else "llama"
    document: dict[str, Any] = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": float(config.norm_epsilon),
        "rope_theta": float(config.rope_base),
        "rope_scaling": _scaling(config),
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,
        "dtype": "float32",
    }
    if family != "llama":
        document["sliding_window"] = config.window or None
    if config.experts:
        document |= _of_experts(config)
    own = {name: getattr(config, name) for name in _OWN_FIELDS if name in _own(config)}
    return document | ({OWN: own} if own else {})


def _scaling(config: ModelConfig) -> dict[str, Any] | None:
    if config.rope_factor == 1:
        return None
    return {
        "rope_type": "llama3",
        "factor": float(config.rope_factor),
        "low_freq_factor": float(config.rope_low_frequency),
        "high_freq_factor": float(config.rope_high_frequency),
        "original_max_position_embeddings": config.rope_original_context,
    }


def _of_experts(config: ModelConfig) -> dict[str, Any]:
    document: dict[str, Any] = {
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": float(config.balance_loss),
        "router_jitter_noise": 0.0,
        "output_router_logits": False,
    }
    if config.feed_forward % 4 or config.width % 4:
        document["experts_implementation"] = "eager"  # their grouped product wants rows that begin on 16 bytes
    return document


def _own(config: ModelConfig) -> set[str]:
    """The fields of ours that the rest of the document would not bring back."""
    defaults = {field.name: field.default for field in fields(ModelConfig)}
    silent = {name for name in _OWN_FIELDS if getattr(config, name) != defaults[name]}
    return silent - ({"norm_epsilon"} if config.norm_epsilon == _decimal(float(config.norm_epsilon)) else set())


# --- theirs to ours ---------------------------------------------------------------------------------------------------------


def from_document(document: Mapping[str, Any]) -> ModelConfig:
    """The decoder of ours that computes what this `config.json` says. Raises InterchangeError for the first mismatch."""
    family = document.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise _mismatch(f"model_type is {_shown(family)}; known are {', '.join(FAMILIES)}")
    for name, values in _EXPECTED.items():
        if document.get(name, values[0]) not in values:
            raise _mismatch(f"{name} is {_shown(document[name])}; p2pnode has {_shown(values[0])}")
    found: dict[str, Any] = {
        "vocabulary": _integer(document, "vocab_size"),
        "width": _integer(document, "hidden_size"),
        "layers": _integer(document, "num_hidden_layers"),
        "heads": _integer(document, "num_attention_heads"),
        "feed_forward": _integer(document, "intermediate_size"),
        "context": _integer(document, "max_position_embeddings"),
        "norm_epsilon": _decimal(_number(document, "rms_norm_eps", 1e-5 if family == "mixtral" else 1e-6)),
        "tied_head": _flag(document, "tie_word_embeddings", default=False),
    }
    found["key_value_heads"] = _integer(document, "num_key_value_heads", found["heads"] if family == "llama" else 8)
    size = _integer(document, "head_dim", 0)
    found["head_dim"] = 0 if size * found["heads"] == found["width"] else size
    found |= _rope(document, family)
    if family != "llama":
        found |= _window(document, found["context"], 4096 if family == "mistral" else None)
    if family == "mixtral":
        found |= {
            "experts": _integer(document, "num_local_experts", 8),
            "experts_per_token": _integer(document, "num_experts_per_tok", 2),
            "balance_loss": _decimal(_number(document, "router_aux_loss_coef", 0.001)),
        }
    try:
        return ModelConfig(**found | _own_part(document))
    except ConfigError as problem:
        raise _mismatch(problem.message) from None


def _rope(document: Mapping[str, Any], family: str) -> dict[str, int]:
    """The rotation: under `rope_parameters` in transformers 5, before it in `rope_theta` and `rope_scaling`."""
    name = "rope_scaling" if document.get("rope_scaling") else "rope_parameters"
    said = document.get(name) or {}
    if not isinstance(said, dict):
        raise _mismatch(f"{name} is {_shown(said)}")
    theta = said if "rope_theta" in said else document
    found = {"rope_base": _integer(theta, "rope_theta", _THETA[family])}
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise _mismatch(f"{name} is of type {_shown(kind)}; p2pnode has default and llama3")
    if said.get("partial_rotary_factor") not in (None, 1):
        raise _mismatch(f"partial_rotary_factor is {_shown(said['partial_rotary_factor'])}; p2pnode has 1")
    known = (*_ROPE_KEYS, *(_LLAMA3_KEYS if kind == "llama3" else ()))
    if strange := sorted(set(map(str, said)) - set(known)):
        raise _mismatch(f"{name} has {_shown(strange[0])}, which p2pnode does not know")
    if kind == "default" or said.get("factor") == 1:
        return found
    original = "original_max_position_embeddings"
    before = document if original in document else said
    return found | {
        "rope_factor": _integer(said, "factor"),
        "rope_low_frequency": _integer(said, "low_freq_factor"),
        "rope_high_frequency": _integer(said, "high_freq_factor"),
        "rope_original_context": _integer(before, original, _integer(document, "max_position_embeddings")),
    }


def _window(document: Mapping[str, Any], context: int, default: int | None) -> dict[str, Any]:
    window = document.get("sliding_window", default)
    if window is None:
        return {}
    window = _integer({"sliding_window": window}, "sliding_window")
    # One that is never left is none.
    return {"attention": "window", "window": window} if window <= context else {}


def _own_part(document: Mapping[str, Any]) -> dict[str, Any]:
    own = document.get(OWN, {})
    if not isinstance(own, dict) or not own.keys() <= set(_OWN_FIELDS):
        raise _mismatch(f"{OWN} is {_shown(own)}; it may hold {', '.join(_OWN_FIELDS)}")
    if "norm_epsilon" in own and _number(document, "rms_norm_eps", -1) != _float(own["norm_epsilon"]):
        raise _mismatch(
            f"rms_norm_eps is {_shown(document.get('rms_norm_eps'))}, and {OWN} says {_shown(own['norm_epsilon'])}"
        )
    return own


def _float(text: object) -> float | None:
    try:
        return float(text) if isinstance(text, str) else None
    except ValueError:
        return None


# --- values ---------------------------------------------------------------------------------------------------------------


def _integer(document: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = document.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise _mismatch(f"{name} is missing")
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE_MAX:
        value = int(value)
    if type(value) is not int or abs(value) >= _WHOLE_MAX:
        raise _mismatch(f"{name} is {_shown(value)}; p2pnode takes whole numbers there")
    return value


def _number(document: Mapping[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    if type(value) not in (int, float) or not -1e30 < value < 1e30:
        raise _mismatch(f"{name} is {_shown(value)}, and no number")
    return float(value)


def _flag(document: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = document.get(name, default)
    if type(value) is not bool:
        raise _mismatch(f"{name} is {_shown(value)}; true or false is expected")
    return value


def _decimal(value: float) -> str:
    """The shortest decimal that is this float: without an exponent, unless it is too long for a field of ours then."""
    found = Decimal(repr(value)).normalize()
    plain = format(found, "f")
    return plain if len(plain) <= _DECIMAL_CHARACTERS else format(found, "E")


def _shown(value: object) -> str:
    return json.dumps(value, default=str)[:60] if not isinstance(value, str) else repr(value)[:60]


def _unsayable(what: str) -> InterchangeError:
    return InterchangeError(f"this model cannot be exported: {what}", _HINT_EXPORT)


def _mismatch(what: str) -> InterchangeError:
    return InterchangeError(f"config.json: {what}", _HINT_IMPORT)
