"""Texts for a node's owner: in slices, in turns, a few at a time, and none that nobody asks for."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from model.generation.settings import Settings
from model.tokenizer import ByteTokenizer
from p2pnode import generations as module
from p2pnode.errors import UserError
from p2pnode.generations import LEASE_SECONDS_MAX, TEXTS_MAX, AgreedModel, Generations, Text
from p2pnode.worker import Worker
from tests.model.decoders import variant
from tests.model.texts import replica_of, write
from tests.p2pnode.little import until

T = TypeVar("T")
LONG = Settings(max_tokens=500)


@pytest.fixture
def generations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Generations]:
    monkeypatch.setattr(module, "SLICE_SECONDS", 0)  # a slice is a step
    made = Generations(Worker, is_training=lambda: False)
    yield made
    made.close()


def agreed(seed: int = 1, **change: int) -> AgreedModel:
    return AgreedModel(replica_of(variant("llama", context=32, **change), seed), ByteTokenizer(), 12, "ab" * 32)


async def whole(generations: Generations, model: AgreedModel, prompt: str, settings: Settings) -> tuple[str, list[int]]:
    answer = await generations.begin(model, prompt, settings)
    text = answer["text"]
    while answer["ended"] is None:
        answer = await generations.go_on(answer["number"])
        text += answer["text"]
    return text, answer["ended"]["token_ids"]


async def test_texts_take_turns_and_each_is_what_it_would_be_alone(generations: Generations) -> None:
    found: dict[str, tuple[str, list[int]]] = {}

    async def one(prompt: str, settings: Settings) -> None:
        found[prompt] = await whole(generations, agreed(len(prompt)), prompt, settings)

    asked = {
        "a": Settings(max_tokens=40),
        "bc": Settings(max_tokens=40, seed=3),
        "def": Settings(max_tokens=9, beams=3),
    }
    async with trio.open_nursery() as nursery:
        for prompt, settings in asked.items():
            nursery.start_soon(one, prompt, settings)
    for prompt, settings in asked.items():
        text, ending = write(agreed(len(prompt)).replica, prompt, settings)
        assert found[prompt] == (text, list(ending.tokens))


async def test_a_slice_ends_where_it_was_told_to_and_the_last_has_the_facts(generations: Generations) -> None:
    answer = await generations.begin(agreed(), "ab", Settings(max_tokens=3, seed=5))
    assert (answer["tokens"], answer["ended"]) == (1, None)
    answer = await generations.go_on(answer["number"])
    assert (answer["tokens"], answer["ended"]) == (2, None)
    facts = (await generations.go_on(answer["number"]))["ended"]
    assert (facts["reason"], facts["tokens"], len(facts["token_ids"]), facts["seed"]) == ("length", 3, 3, 5)
    assert (facts["height"], facts["model_root"], facts["context"], facts["prompt_tokens"]) == (12, "ab" * 32, 32, 2)
    assert facts["tokens_per_second"] > 0
    with pytest.raises(UserError, match="text 1 is not being written"):
        await generations.go_on(answer["number"])


async def test_so_many_texts_are_written_at_a_time(generations: Generations) -> None:
    numbers = [(await generations.begin(agreed(), "x", LONG))["number"] for _ in range(TEXTS_MAX)]
    with pytest.raises(UserError, match=f"^{TEXTS_MAX} texts are being written already"):
        await generations.begin(agreed(), "x", LONG)
    generations.end(numbers[0])
    generations.end(numbers[0])  # twice is once
    assert (await generations.begin(agreed(), "x", LONG))["tokens"] == 1


async def test_a_text_that_nobody_asks_for_is_forgotten(generations: Generations, mock_clock: MockClock) -> None:
    """And the model that it began with is given back."""
    model = agreed()
    held = weakref.ref(model.replica)
    number = (await generations.begin(model, "x", LONG))["number"]
    mock_clock.jump(LEASE_SECONDS_MAX - 0.1)
    generations.forget_abandoned()
    assert (await generations.go_on(number))["tokens"] == 2  # and its time begins anew
    mock_clock.jump(LEASE_SECONDS_MAX + 0.1)
    generations.forget_abandoned()
    with pytest.raises(UserError, match="is not being written") as gone:
        await generations.go_on(number)
    assert "10 s" in gone.value.hint
    del model
    await until(lambda: gc.collect() >= 0 and held() is None)


async def test_forgetting_goes_on_by_itself(generations: Generations, autojump_clock: MockClock) -> None:
    generations._texts[1] = module._Leased(Text(agreed(), "x", LONG))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generations.forget_forever)
        await trio.sleep(3 * LEASE_SECONDS_MAX)
        nursery.cancel_scope.cancel()
    assert not generations._texts


async def test_a_text_that_cannot_be_had_is_said_and_leaves_its_place(generations: Generations) -> None:
    for _ in range(TEXTS_MAX + 1):
        with pytest.raises(UserError, match="the tokenizer has 256 words, the model 16"):
            await generations.begin(agreed(vocabulary=16), "x", LONG)


async def test_who_goes_away_in_the_middle_of_a_slice_leaves_at_once(generations: Generations) -> None:
    """As when the node ends: the slice ends by itself, and nobody waits for it."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await generations.begin(agreed(), "x", LONG)
    assert scope.cancelled_caught and not generations._texts


@pytest.mark.parametrize("is_training", [True, False])
async def test_while_the_node_trains_the_thread_rests_as_long_as_it_has_worked(
    is_training: bool, autojump_clock: MockClock
) -> None:
    class Slow(Worker):
        def __init__(self, name: str, *, niceness: int = 0) -> None:
            """No thread."""

        async def run(self, job: Callable[[], T]) -> T:
            began.append(trio.current_time())
            await trio.sleep(3)
            return job()

    began: list[float] = []
    generations = Generations(Slow, is_training=lambda: is_training)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:  # also of two texts
        for _ in range(2):
            nursery.start_soon(generations.begin, agreed(), "x", LONG)
    await generations.go_on(1)
    assert began == [start, start + 3 + 3 * is_training, start + 6 + 6 * is_training]


async def test_a_node_that_never_writes_has_no_thread_for_it() -> None:
    class NoWorker(Worker):
        def __init__(self, name: str, *, niceness: int = 0) -> None:
            raise AssertionError

    never = Generations(NoWorker, is_training=lambda: True)
    never.forget_abandoned()
    never.close()


def test_a_device_that_is_not_there_is_one_line() -> None:
    model = agreed()
    with pytest.raises(UserError, match=r"^cannot compute on cuda:7: "):
        Text(AgreedModel(model.replica, model.tokenizer, None, None, device="cuda:7"), "x", LONG).advance(0)


def test_the_likeliest_next_tokens_are_facts() -> None:
    facts = Text(agreed(), "ab", Settings(candidates=3)).advance(0)["ended"]
    assert (facts["reason"], len(facts["candidates"]), facts["tokens"], facts["tokens_per_second"]) == (
        "candidates",
        3,
        0,
        None,
    )
    assert set(facts["candidates"][0]) == {"token", "text", "probability"}
