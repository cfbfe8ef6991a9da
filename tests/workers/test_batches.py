"""Batches of like length under a budget of tokens, and what happens where memory runs out."""

from __future__ import annotations

import pytest

from orchestrator.workers.batches import CPU_TOKENS, Reader, plan_batches, read_items
from orchestrator.workers.failure import WorkerError

LENGTHS = [1 + number * 37 % 90 for number in range(400)]


def reader(run, *, longest=100, batch_size=4, **more):
    return Reader(lambda items: [len(item) for item in items], run, longest, batch_size, **more)


def read(one, items, known=()):
    found = {}
    for places, values in read_items(one, items, known):
        found.update(zip(places, values, strict=True))
    return found


def test_every_item_is_in_one_batch_and_no_batch_is_beyond_the_budget():
    batches = plan_batches(LENGTHS, 200)
    assert sorted(place for batch in batches for place in batch) == list(range(400))
    assert all(len(batch) * max(LENGTHS[place] for place in batch) <= 200 for batch in batches)


def test_the_longest_come_first_and_short_ones_are_read_in_larger_batches():
    batches = plan_batches(LENGTHS, 200)
    assert (len(batches[0]), max(map(len, batches))) == (2, 28)
    order = [LENGTHS[place] for batch in batches for place in batch]
    assert order == sorted(LENGTHS, reverse=True)


def test_one_item_beyond_the_budget_is_a_batch_alone():
    assert plan_batches([3, 500, 0], 10) == [[1], [0, 2]]


def test_no_item_makes_no_batch():
    assert plan_batches([], 10) == []


def test_on_a_cpu_the_budget_has_an_end_and_on_a_gpu_the_batch_size_decides():
    assert reader(list, longest=8192, batch_size=32).tokens == CPU_TOKENS
    assert reader(list, longest=512, batch_size=2).tokens == 1024
    assert reader(list, longest=8192, batch_size=32, device="cuda:0").tokens == 8192 * 32


def test_batches_are_those_of_all_items_whatever_is_known_already():
    calls = []

    def run(items):
        calls.append(frozenset(items))
        return [length for _, length in items]

    items = list(enumerate(LENGTHS))
    one = Reader(lambda given: [length for _, length in given], run, 100, 4)
    read(one, items)
    whole, known = list(calls), set(range(0, 400, 3)) | {place for place, _ in calls[2]}
    calls.clear()
    assert read(one, items, known) == {place: LENGTHS[place] for place in range(400) if place not in known}
    assert calls == [left for batch in whole if (left := {item for item in batch if item[0] not in known})]


def limited(most, calls, error=None):
    def run(items):
        calls.append(len(items))
        if len(items) > most:
            raise error or RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [len(item) for item in items]

    return run


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_the_batches_and_is_remembered(error):
    calls = []
    one = reader(limited(2, calls, error), longest=10, batch_size=4)
    items = ["x" * 10] * 16
    assert read(one, items) == dict.fromkeys(range(16), 10)
    assert calls == [4, *[2] * 8]
    assert one.facts["cautions"] == ["memory ran out on cpu: batches are read in 2 parts"]


def test_memory_that_runs_out_again_halves_again_and_is_said_once():
    calls = []
    one = reader(limited(1, calls), longest=10, batch_size=4)
    assert read(one, ["x" * 10] * 8) == dict.fromkeys(range(8), 10)
    assert calls == [4, 2, *[1] * 8]
    assert one.facts["cautions"] == ["memory ran out on cpu: batches are read in 4 parts"]


def test_no_memory_for_one_item_is_a_clear_error():
    with pytest.raises(
        WorkerError, match="no memory on cpu for a batch of one item of up to 10 tokens; lower max_length"
    ):
        read(reader(limited(0, []), longest=10), ["x"])


def test_any_other_error_is_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        read(reader(limited(0, [], RuntimeError("shapes do not fit"))), ["x"])
