"""The store of pictures seen: what is kept, what is evicted first, and that threads do not break the count."""

from __future__ import annotations

import random
import threading

from blip2tools.pictures.store import Store
from tests.conftest import handle_of


def picture(number: int, size: int = 10) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b"\0")


def test_a_handle_leads_back_to_the_same_bytes() -> None:
    store = Store(100)
    data = picture(1)
    handle = store.put(data)
    assert handle == handle_of(data)
    assert handle.startswith("img_")
    assert len(handle) == 20
    assert store.get(handle) is data
    assert store.get("img_0000000000000000") is None


def test_the_same_bytes_are_kept_once() -> None:
    store = Store(100)
    assert store.put(picture(1)) == store.put(picture(1))
    assert len(store) == 1
    assert store.bytes_used == 10


def test_the_least_recently_used_goes_first() -> None:
    store = Store(30)
    first, second, third = (store.put(picture(n)) for n in range(3))
    store.get(first)
    fourth = store.put(picture(3))
    assert store.get(second) is None
    assert store.known(9) == [fourth, first, third]
    store.put(picture(2))
    assert store.known(2) == [third, fourth]
    assert store.known(0) == store.known(-1) == []


def test_a_large_picture_evicts_as_many_as_it_needs() -> None:
    store = Store(30)
    for number in range(3):
        store.put(picture(number))
    large = store.put(picture(9, 25))
    assert store.known(9) == [large]
    assert store.bytes_used == 25


def test_exactly_the_budget_is_kept() -> None:
    store = Store(30)
    assert store.get(store.put(picture(1, 30))) is not None


def test_a_picture_above_the_budget_is_not_kept_and_evicts_nothing() -> None:
    store = Store(30)
    kept = store.put(picture(1))
    handle = store.put(picture(2, 31))
    assert handle == handle_of(picture(2, 31))
    assert store.get(handle) is None
    assert store.known(9) == [kept]


def test_threads() -> None:
    store = Store(200)
    pictures = [picture(number, 1 + number % 40) for number in range(60)]

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(2_000):
            data = chance.choice(pictures)
            assert store.get(store.put(data)) in (data, None)
            assert 0 <= store.bytes_used <= 200

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [store.get(handle) for handle in store.known(1000)]
    assert sum(len(data) for data in kept if data) == store.bytes_used
    assert len(store) == len(kept)
