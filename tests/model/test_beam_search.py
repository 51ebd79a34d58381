"""Beam search against transformers', token by token, and against its definition: the likeliest of all texts."""

from itertools import product

import pytest
import torch

from model.generation.beam_search import BeamSearch
from model.generation.reader import Reader
from model.generation.settings import Settings
from model.replica import Replica
from tests.model.decoders import variant
from tests.model.test_against_transformers import theirs
from tests.model.texts import BYTES, replica_of, words, write

LENGTH = 20


def their_tokens(replica: Replica, prompt: list[int], *, end: int | None, cached: bool = True, **how: int) -> list[int]:
    other = theirs(replica.config)
    weights = {
        p.name: torch.tensor(replica.theta[p.offset : p.offset + p.count]).view(p.shape) for p in replica.layout.tensors
    }
    if replica.config.tied_head:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    other.load_state_dict(weights)
    found = other.eval().generate(
        torch.tensor([prompt]), do_sample=False, eos_token_id=end, pad_token_id=0, use_cache=cached, **how,
    )  # fmt: skip
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens if end not in tokens else tokens[: tokens.index(end) + 1]  # theirs are filled up


def our_tokens(replica: Replica, prompt: list[int], *, beams: int, end: int | None, cached: bool = True) -> list[int]:
    reader = Reader(replica, cached=cached)
    search = BeamSearch(beams, ends=lambda text: len(text) >= LENGTH or text[-1] == end)
    logits, first = reader.read(prompt), True
    while True:
        rows, tokens = search.step(logits)
        if search.best is not None:
            return list(search.best.tokens)
        reader.select(torch.zeros_like(rows) if first else rows)
        logits, first = reader.read(tokens[:, None]), False


@pytest.mark.parametrize("beams", [2, 3, 5])
@pytest.mark.parametrize("name", ["llama", "untied", "window", "experts"])
def test_it_finds_the_tokens_that_transformers_finds(name: str, beams: int) -> None:
    for seed in range(4):
        config = variant(name, context=64, vocabulary=19, **({"window": 7} if name == "window" else {}))
        replica = replica_of(config, seed)
        for end in (None, 7):  # of so few words, many beams end
            prompt = [6 + seed, 1, 4]
            expected = their_tokens(replica, prompt, end=end, num_beams=beams, max_new_tokens=LENGTH)
            assert our_tokens(replica, prompt, beams=beams, end=end) == expected, (seed, end)
            assert our_tokens(replica, prompt, beams=beams, end=end, cached=False) == expected, (seed, end)


def test_some_of_these_texts_end_early_and_some_do_not() -> None:
    replica = replica_of(variant("llama", context=64, vocabulary=19), 1)
    lengths = {len(our_tokens(replica, [p, 1, 4], beams=3, end=7)) for p in range(10)}
    assert LENGTH in lengths and min(lengths) < LENGTH


def test_with_as_many_beams_as_there_are_texts_the_likeliest_of_all_is_found() -> None:
    replica = replica_of(variant("llama", context=16, vocabulary=5), 3, gain=30)
    search, reader = BeamSearch(25, ends=lambda text: len(text) == 3), Reader(replica)
    rows, tokens = search.step(reader.read([1, 2]))
    reader.select(torch.zeros_like(rows))
    rows, tokens = search.step(reader.read(tokens[:, None]))
    reader.select(rows)
    search.step(reader.read(tokens[:, None]))

    def log_probability(text: tuple[int, ...]) -> float:
        each, whole = 0.0, Reader(replica, cached=False)
        logits = whole.read([1, 2])
        for token in text:
            each += float(logits.log_softmax(dim=-1)[0, token])
            logits = whole.read([token])
        return each / 3

    likeliest = max(product(range(5), repeat=3), key=log_probability)
    assert search.best is not None and search.best.tokens == likeliest
    assert search.best.score == pytest.approx(log_probability(likeliest), abs=1e-5)


@pytest.mark.parametrize("beams", [2, 4])
def test_a_whole_text_is_that_of_transformers(beams: int) -> None:
    replica = replica_of(variant("llama", context=64), 5)
    expected = their_tokens(replica, list(b"To be"), end=None, num_beams=beams, max_new_tokens=30)
    pieces: list[str] = []
    text, ending = write(replica, "To be", Settings(beams=beams, max_tokens=30), pieces=pieces)
    assert (list(ending.tokens), ending.reason) == (expected, "length")
    assert text == BYTES.decode(expected) == pieces[-1] and not any(pieces[:-1])
    assert ending.score is not None and ending.score < 0 and ending.seed is None


def test_beams_end_with_the_context() -> None:
    replica = replica_of(variant("llama", context=16), 5)
    _, ending = write(replica, "ten bytes.", Settings(beams=2, max_tokens=30))
    assert (ending.reason, len(ending.tokens)) == ("context", 16 - 10 + 1)  # the last one is not read
    assert write(replica, "ten bytes.", Settings(beams=2, max_tokens=7))[1].reason == "length"


def test_beams_end_with_the_end_of_the_text_which_is_not_shown() -> None:
    tokenizer = words("to", "be", "or", "not")
    replica = replica_of(variant("llama", context=64, vocabulary=tokenizer.vocabulary), 1)
    prompt = tokenizer.encode("to be")
    expected = their_tokens(replica, prompt, end=1, num_beams=3, max_new_tokens=40)
    text, ending = write(replica, "to be", Settings(beams=3, max_tokens=40), tokenizer=tokenizer)
    assert list(ending.tokens) == expected and ending.reason == "end" and expected[-1] == 1
    assert text == tokenizer.decode([*prompt, *expected[:-1]])[len("to be") :]


def test_a_stop_string_ends_a_beam() -> None:
    """Here of a token and a half: the text ends before it, and the search says so."""
    replica = replica_of(variant("llama", context=64, vocabulary=256), 9)
    settings = Settings(beams=3, max_tokens=30)
    text, _ = write(replica, "x", settings)
    stop = text[6:8]
    stopped, ending = write(replica, "x", Settings(beams=3, max_tokens=30, stop=(stop,)))
    assert stop not in stopped
    if ending.reason == "stop":
        assert BYTES.decode(ending.tokens).startswith(stopped + stop)
    assert (ending.reason, stopped) == ("stop", text[: text.index(stop)])
