"""Whole texts: greedy and drawn, with the cache and without, against transformers; prompts of every kind; a context that is full."""

import numpy as np
import pytest

from model.config import ModelConfig, TrainingConfig
from model.errors import GenerationError
from model.generation.generation import PIECE_TOKENS, Generation
from model.generation.reader import Reader
from model.generation.settings import TOKENS_USUAL, Settings
from model.generation.text_stream import text_after
from model.limits import PROMPT_CHARACTERS_MAX
from model.replica import Replica
from tests.model.decoders import VARIANTS, variant
from tests.model.test_beam_search import their_tokens
from tests.model.texts import BYTES, replica_of, words, write

PROMPT = "Once upon a time"


def long_context(name: str) -> ModelConfig:
    return variant(name, context=64)


@pytest.mark.parametrize("name", ["llama", "untied", "window", "experts", "rope-scaled"])
def test_a_greedy_text_is_that_of_transformers(name: str) -> None:
    for seed in range(3):
        replica = replica_of(long_context(name), seed)
        expected = their_tokens(replica, list(PROMPT.encode()), end=None, max_new_tokens=40)
        assert list(write(replica, PROMPT, Settings(max_tokens=40))[1].tokens) == expected
        assert list(write(replica, PROMPT, Settings(max_tokens=40, cached=False))[1].tokens) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_the_cache_changes_no_token(name: str) -> None:
    """Past the end of the context as well."""
    replica = replica_of(variant(name, context=32))
    for asked in (
        {},
        {"temperature": 1.3, "seed": 5},
        {"top_k": 20, "top_p": 0.9, "seed": 6},
        {"beams": 3, "max_tokens": 12},
    ):
        with_cache = write(replica, PROMPT, Settings(**{"max_tokens": 60, **asked}))  # type: ignore[arg-type]
        without = write(replica, PROMPT, Settings(**{"max_tokens": 60, "cached": False, **asked}))  # type: ignore[arg-type]
        assert with_cache[0] == without[0] and with_cache[1].tokens == without[1].tokens, asked


def test_a_seed_gives_the_same_text_and_another_one_another() -> None:
    replica = replica_of(long_context("llama"))
    text, ending = write(replica, PROMPT, Settings(temperature=1.0, max_tokens=40))
    assert write(replica, PROMPT, Settings(temperature=1.0, max_tokens=40, seed=ending.seed)) == (text, ending)
    assert write(replica, PROMPT, Settings(temperature=1.0, max_tokens=40))[1].tokens != ending.tokens


def test_what_training_does_between_two_tokens_changes_nothing() -> None:
    """The seeds of a node's training are torch's own generator's."""
    import torch

    replica, settings = replica_of(long_context("llama")), Settings(seed=4, max_tokens=20)
    generation = Generation(Reader(replica), BYTES, PROMPT, settings)
    while generation.ending is None:
        generation.step()
        torch.manual_seed(1)
        torch.rand(3)
    state = torch.get_rng_state()
    assert generation.ending.tokens == write(replica, PROMPT, settings)[1].tokens
    assert torch.equal(torch.get_rng_state(), state)


def test_a_text_that_outgrows_the_context_goes_on_from_its_newest_half() -> None:
    replica = replica_of(variant("llama", context=16))
    _, whole = write(replica, "0123456789", Settings(max_tokens=40))
    text = [*b"0123456789", *whole.tokens]
    assert len(whole.tokens) == 40 and whole.reason == "length"
    # Tokens 11 to 17 were chosen with all before them in sight; the 18th with the newest eight alone.
    after = write(replica, "01234567890123456", Settings(max_tokens=1))[1]
    assert after.prompt_tokens_read == 8
    reader = Reader(replica, cached=False)
    assert text[17] == int(reader.read(text[9:17]).argmax())
    reader.forget()
    assert text[16] == int(reader.read(text[:16]).argmax())


@pytest.mark.parametrize("length", [15, 16, 17, 40])
def test_a_prompt_longer_than_the_context_is_read_from_its_newest_half(length: int) -> None:
    replica = replica_of(variant("llama", context=16))
    prompt = "".join(chr(97 + n % 26) for n in range(length))
    _, ending = write(replica, prompt, Settings(max_tokens=4))
    read = length if length <= 16 else 8
    assert (ending.prompt_tokens, ending.prompt_tokens_read) == (length, read)
    assert ending.tokens[0] == int(Reader(replica).read(list(prompt.encode()[-read:])).argmax())


def test_a_long_prompt_is_read_in_pieces() -> None:
    replica = replica_of(variant("llama", context=3 * PIECE_TOKENS))
    for length in (PIECE_TOKENS, PIECE_TOKENS + 1, 2 * PIECE_TOKENS + 7):
        pieces: list[str] = []
        _, ending = write(replica, "x" * length, Settings(max_tokens=1), pieces=pieces)
        assert len(pieces) == -(-length // PIECE_TOKENS)
        assert ending.tokens[0] == int(Reader(replica, cached=False).read([120] * length).argmax())


def test_nothing_comes_after_a_new_line_or_the_end_of_another_text() -> None:
    replica = replica_of(variant("llama"))
    assert (
        write(replica, "", Settings(max_tokens=3))[1].tokens == write(replica, "\n", Settings(max_tokens=3))[1].tokens
    )
    tokenizer = words("to", "be")
    replica = replica_of(variant("llama", vocabulary=tokenizer.vocabulary))
    first = write(replica, "", Settings(max_tokens=1), tokenizer=tokenizer)[1].tokens[0]
    assert tokenizer.end == 1 and first == int(Reader(replica).read([1]).argmax())


@pytest.mark.parametrize("prompt", ["a\x00b", "\ud800x", "\udcff", "😀", "\r\n\r", "\x1b[2J"])
def test_no_prompt_is_odd_enough(prompt: str) -> None:
    _, ending = write(replica_of(variant("llama")), prompt, Settings(max_tokens=2))
    assert len(ending.tokens) == 2


def test_the_end_of_a_text_ends_it_and_is_not_shown() -> None:
    tokenizer = words("to", "be", "or", "not")
    replica = replica_of(variant("llama", vocabulary=tokenizer.vocabulary, context=64))
    for seed in range(5):
        text, ending = write(replica, "to be", Settings(seed=seed), tokenizer=tokenizer)
        assert ending.reason == "end" and ending.tokens[-1] == 1
        assert text == text_after(tokenizer, tokenizer.encode("to be"), ending.tokens[:-1])


def test_a_stop_string_ends_a_text_and_no_token_is_chosen_after_it() -> None:
    replica = replica_of(long_context("llama"), 9)
    text, whole = write(replica, PROMPT, Settings(max_tokens=30))
    stop = text[5:7]
    stopped, ending = write(replica, PROMPT, Settings(max_tokens=30, stop=("never", stop)))
    assert stopped == text[: text.index(stop)] and ending.reason == "stop"
    assert ending.tokens == whole.tokens[: len(ending.tokens)]
    assert stop in BYTES.decode(ending.tokens) and stop not in BYTES.decode(ending.tokens[:-1])


def test_the_usual_length() -> None:
    assert len(write(replica_of(variant("llama", layers=1)), "x")[1].tokens) == TOKENS_USUAL


def test_the_likeliest_next_tokens() -> None:
    replica = replica_of(variant("llama"))
    logits = Reader(replica).read(list(b"ab"))[0]
    text, ending = write(replica, "ab", Settings(candidates=300))
    assert (text, ending.reason, len(ending.candidates)) == ("", "candidates", 256)
    assert sum(c.probability for c in ending.candidates) == pytest.approx(1)
    for candidate in ending.candidates:
        assert candidate.probability == pytest.approx(float(logits.softmax(dim=0)[candidate.token]), rel=1e-4)
    assert [c.probability for c in ending.candidates] == sorted(
        (c.probability for c in ending.candidates), reverse=True
    )
    drawn = write(replica, "ab", Settings(candidates=300, top_k=3))[1].candidates
    assert [c.token for c in drawn] == [c.token for c in ending.candidates[:3]] and sum(
        c.probability for c in drawn
    ) == pytest.approx(1)


def test_a_candidates_text_is_what_it_would_add() -> None:
    tokenizer = words("to", "be")
    replica = replica_of(variant("llama", vocabulary=tokenizer.vocabulary))
    found = write(replica, "to", Settings(candidates=10), tokenizer=tokenizer)[1].candidates
    assert {c.text for c in found} >= {" to", " be"}


def test_another_tokenizer_than_the_models_is_refused() -> None:
    with pytest.raises(GenerationError, match="the tokenizer has 256 words, the model 16"):
        write(replica_of(variant("llama", vocabulary=16)), "x")


def test_a_prompt_is_no_longer() -> None:
    replica = replica_of(variant("llama"))
    assert write(replica, "x" * PROMPT_CHARACTERS_MAX, Settings(max_tokens=1))[1].prompt_tokens_read == 8
    with pytest.raises(GenerationError, match=f"^a prompt of {PROMPT_CHARACTERS_MAX + 1} characters"):
        write(replica, "x" * (PROMPT_CHARACTERS_MAX + 1), Settings(max_tokens=1))


def test_a_model_that_diverged_is_said() -> None:
    sound = replica_of(variant("untied"))
    state = bytearray(sound.read(0, sound.byte_length))
    head = next(place for place in sound.layout.tensors if place.name == "lm_head.weight")
    np.frombuffer(state, np.float32)[head.offset : head.offset + head.count] = 3e38
    replica = Replica.from_bytes(sound.config, sound.training, state)
    for settings in (Settings(), Settings(seed=1), Settings(beams=2), Settings(candidates=2)):
        with pytest.raises(GenerationError, match="not finite"):
            write(replica, "x", settings)


def test_a_model_for_int8_is_read_as_it_was_trained() -> None:
    exact = replica_of(variant("llama"), gain=1)
    rounded = replica_of(variant("llama"), gain=1, training=TrainingConfig(quantization="int8"))
    ours, theirs = (Reader(replica).read([1, 2, 3]) for replica in (rounded, exact))
    assert 0 < (ours - theirs).abs().max() < 0.1
