"""The feature cache keeps to its budget whatever comes."""

import random
from dataclasses import dataclass

from blip2tools.cache import FeatureCache


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
