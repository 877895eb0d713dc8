"""The feature cache always keeps to its budget."""

import random
from dataclasses import dataclass

import pytest
import torch

from blip2tools.engine.cache import FeatureCache, Spill


@dataclass(frozen=True)
class Block:
    nbytes: int


def test_least_recently_used_goes_first():
    cache = FeatureCache(30)
    for name in "abc":
        cache.put(name, Block(10))
    assert cache.get("a") == Block(10)
    cache.put("d", Block(10))
    assert cache.get("b") is None
    assert [cache.get(name) is not None for name in "acd"] == [True, True, True]


def test_replacing_counts_once():
    cache = FeatureCache(30)
    cache.put("a", Block(10))
    cache.put("a", Block(20))
    assert cache.use().bytes_used == 20
    assert cache.use().entries == 1


def test_a_value_above_the_budget_is_not_kept_and_evicts_nothing():
    cache = FeatureCache(30)
    cache.put("a", Block(10))
    cache.put("big", Block(31))
    assert cache.get("big") is None
    assert cache.get("a") is not None


def test_hits_misses_and_clear():
    cache = FeatureCache(30)
    cache.get("a")
    cache.put("a", Block(1))
    cache.get("a")
    cache.clear()
    use = cache.use()
    assert (use.hits, use.misses, use.entries, use.bytes_used, use.bytes_limit) == (1, 1, 0, 0, 30)


def test_the_budget_holds_under_random_use():
    cache = FeatureCache(1000)
    chance = random.Random(7)
    sizes = {}
    for _ in range(5000):
        name = chance.randrange(200)
        sizes[name] = chance.randrange(1, 120)
        cache.put(name, Block(sizes[name]))
        assert cache.use().bytes_used <= 1000
    kept = [cache.get(name) for name in range(200)]
    assert sum(block.nbytes for block in kept if block) == cache.use().bytes_used


class Far(Block):
    """A value in the second tier's memory."""


class Road:
    """The transfer between two tiers, which counts copies."""

    def __init__(self):
        self.away = self.back = 0

    def spill(self, budget):
        def away(value):
            assert type(value) is Block
            self.away += 1
            return Far(value.nbytes)

        def back(value):
            assert type(value) is Far
            self.back += 1
            return Block(value.nbytes)

        return Spill(budget, away=away, back=back)


def test_what_does_not_fit_any_more_moves_away_and_comes_back():
    road, cache = Road(), FeatureCache(30)
    cache.spill_to(road.spill(20))
    for name in "abcde":
        cache.put(name, Block(10))
    use = cache.use()
    assert (use.entries, use.bytes_used, use.spilled_entries, use.spilled_bytes, use.evicted) == (3, 30, 2, 20, 0)
    assert cache.get("a") == Block(10)  # from afar, in place of c
    assert (road.away, road.back) == (3, 1)
    use = cache.use()
    assert (use.entries, use.spilled_entries, use.hits, use.returned) == (3, 2, 1, 1)
    assert cache.get("a") == Block(10)  # it is near again
    assert cache.use().returned == 1
    cache.put("f", Block(10))  # d goes away, and b, the oldest of all, has no place left
    assert cache.get("b") is None
    assert cache.use().evicted == 1
    assert [cache.get(name) is not None for name in "acdef"] == [True] * 5


def test_too_large_for_the_first_tier_lives_in_the_second():
    road, cache = Road(), FeatureCache(5)
    cache.spill_to(road.spill(20))
    cache.put("a", Block(10))
    assert cache.get("a") == cache.get("a") == Block(10)
    assert (road.away, road.back) == (1, 2)
    assert cache.use().entries == 0
    cache.put("b", Block(21))
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_a_new_value_replaces_the_one_far_away():
    road, cache = Road(), FeatureCache(10)
    cache.spill_to(road.spill(20))
    cache.put("a", Block(10))
    cache.put("b", Block(10))
    cache.put("a", Block(8))
    assert cache.get("a") == Block(8)
    assert (cache.use().spilled_entries, cache.use().spilled_bytes) == (1, 10)


def test_vacating_moves_everything_and_loses_nothing_that_fits():
    road, cache = Road(), FeatureCache(30)
    cache.spill_to(road.spill(20))
    for name in "abc":
        cache.put(name, Block(10))
    cache.vacate()
    assert (cache.use().bytes_used, cache.use().spilled_bytes, cache.use().evicted) == (0, 20, 1)
    assert [cache.get(name) is not None for name in "abc"] == [False, True, True]
    cache.spill_to(None)
    cache.vacate()
    assert (cache.use().entries, cache.use().spilled_entries, cache.use().spilled_limit) == (0, 0, 0)


@pytest.mark.parametrize("fault", [MemoryError, RuntimeError])
def test_a_value_that_cannot_be_moved_is_let_go(fault):
    def away(value):
        raise fault

    cache = FeatureCache(10)
    cache.spill_to(Spill(20, away=away, back=lambda value: value))
    cache.put("a", Block(10))
    cache.put("b", Block(10))
    assert cache.get("b") is not None
    assert cache.get("a") is None
    assert cache.use().evicted == 1


def test_both_budgets_hold_under_random_use():
    road, cache = Road(), FeatureCache(1000)
    cache.spill_to(road.spill(3000))
    chance = random.Random(8)
    for _ in range(5000):
        if chance.random() < 0.5:
            cache.put(chance.randrange(200), Block(chance.randrange(1, 120)))
        else:
            cache.get(chance.randrange(200))
        use = cache.use()
        assert use.bytes_used <= 1000
        assert use.spilled_bytes <= 3000
    assert use.returned == road.back > 100
    kept = [cache.get(name) for name in range(200)]
    assert sum(block is not None for block in kept) == use.entries + use.spilled_entries


def test_values_move_between_tensors_without_a_change():
    """The engine's own way of moving, as far as it goes without a second device: a copy that shares nothing."""
    cache = FeatureCache(4 * 100)
    cache.spill_to(Spill(4 * 1000, away=torch.clone, back=torch.clone))
    tensors = [torch.randn(5, 10) for _ in range(10)]
    for number, tensor in enumerate(tensors):
        cache.put(number, tensor)
    assert cache.use().spilled_entries == 8
    for number, tensor in enumerate(tensors):
        found = cache.get(number)
        assert torch.equal(found, tensor)
        assert found.data_ptr() != tensor.data_ptr() or number >= 8
