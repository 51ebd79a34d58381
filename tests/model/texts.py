"""Small replicas and tokenizers to write texts with."""

from collections.abc import Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from model.config import ModelConfig, TrainingConfig
from model.generation.generation import Ending, Generation
from model.generation.reader import Reader
from model.generation.settings import Settings
from model.replica import Replica
from model.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from_json

BYTES = ByteTokenizer()


def replica_of(
    config: ModelConfig, seed: int = 1, *, gain: float = 8.0, training: TrainingConfig | None = None
) -> Replica:
    """M(0), but more decided: `gain` times the matrices, or else every token is as likely as any other."""
    training = training or TrainingConfig()
    replica = Replica.initial(config, training, seed)
    state = bytearray(replica.read(0, replica.byte_length))
    theta = np.frombuffer(state, np.float32)
    for place in replica.layout.tensors:
        values = theta[place.offset : place.offset + place.count]
        if len(place.shape) > 1:
            values *= np.float32(gain)
    theta[(np.abs(theta) < 1e-30)] = 0
    return Replica.from_bytes(config, training, state)


def write(
    replica: Replica,
    prompt: str,
    settings: Settings | None = None,
    *,
    tokenizer: Tokenizer = BYTES,
    pieces: list[str] | None = None,
) -> tuple[str, Ending]:
    """A whole text; `pieces` takes what each step showed."""
    settings = settings or Settings()
    generation = Generation(Reader(replica, cached=settings.cached), tokenizer, prompt, settings)
    shown = [] if pieces is None else pieces
    while generation.ending is None:
        shown.append(generation.step())
    return "".join(shown), generation.ending


def words(*given: str) -> Tokenizer:
    """A tokenizer of these words, longest first, with an end; words follow a space, which the first of a text does not show."""
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"▁{word}": number for number, word in enumerate(given, 2)}}
    library = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["</s>"])
    return tokenizer_from_json(library.to_str().encode())


def shown(tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int], *stop: str) -> list[str]:
    """What a stream shows of tokens, each by itself, and at the end."""
    from model.generation.text_stream import TextStream

    stream = TextStream(tokenizer, before, stop=stop)
    pieces = []
    for token in tokens:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()]
