"""Models that do not fit together are loaded in turn: the one that was used longest ago makes way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from contourd.errors import DeviceError, QueueUnavailable
from contourd.model.bundle import load_bundle
from contourd.model.bundle_config import ModelBundle
from contourd.model.predictor import Described
from contourd.node.loaded_models import LoadedModels
from contourd.reasons.catalogue import HoldReason


@dataclass
class Loaded:
    """A predictor as the worker keeps it."""

    bundle: ModelBundle
    runtime: Described = field(default_factory=lambda: SimpleNamespace(description=SimpleNamespace(name="torch")))
    loaded_bytes: int = 3_000_000


class Memory:
    """Holds so many models; what is loaded besides does not fit."""

    def __init__(self, models: int) -> None:
        self.models, self.of = models, None

    def load(self, bundle):
        if len(self.of.predictors) >= self.models:
            raise DeviceError(HoldReason.OVER_WORKER_MEMORY, needed_gb=2.0, held_gb=1.0, limit_gb=1.5)
        return Loaded(bundle)


@pytest.fixture
def two():
    memory = Memory(2)
    memory.of = LoadedModels(memory.load)
    return memory.of


def test_the_one_used_longest_ago_makes_way(two):
    bundle = load_bundle("hn7")
    for name in ("a", "b"):
        assert two.find(name, bundle) is None
        two.load(name, bundle)
    assert two.find("a", bundle) is not None  # b was used longest ago now
    assert two.find("c", bundle) is None
    two.load("c", bundle)
    assert list(two.predictors) == ["a", "c"]


def test_a_series_that_needs_the_room_of_others_gets_it(two):
    bundle = load_bundle("hn7")
    for name in ("a", "b"):
        two.load(name, bundle)

    def contour():
        if len(two.predictors) > 1:
            raise MemoryError
        return "contoured"

    assert two.with_room("a", contour) == "contoured"
    assert list(two.predictors) == ["a"]


def test_what_lacks_memory_alone_says_so_itself(two):
    two.load("a", load_bundle("hn7"))

    def contour():
        raise MemoryError("of its own")

    with pytest.raises(MemoryError, match="of its own"):
        two.with_room("a", contour)
    with pytest.raises(RuntimeError, match="a fault"):
        two.with_room("a", lambda: (_ for _ in ()).throw(RuntimeError("a fault")))


def test_another_bundle_of_the_name_is_not_used(two, fit_bundle):
    two.load("a", load_bundle("hn7"))
    assert two.find("a", load_bundle(fit_bundle)) is None
    assert not two.predictors


def test_what_is_loaded_is_told_with_each_change_and_again_where_nobody_heard():
    """A node says what each worker has ready: a model that makes way, or is another now, is not told any more."""
    at, told, deaf = datetime(2026, 1, 1, tzinfo=UTC), [], []

    def tell(loaded):
        if deaf:
            raise QueueUnavailable("the database is away")
        told.append([(one.model.name, one.kind, one.runtime, one.bytes, one.since) for one in loaded])

    memory = Memory(1)
    memory.of = LoadedModels(memory.load, tell, lambda: at)
    bundle = load_bundle("hn7")
    line = ("hn7", "anatomynet", "torch", 3_000_000, at)
    memory.of.load("a", bundle)
    memory.of.load("b", bundle)  # a makes way
    assert told == [[line], [], [line]]
    deaf.append(True)
    assert memory.of.find("b", replace(bundle, sha256="0" * 64)) is None
    memory.of.tell_again()
    assert len(told) == 3
    deaf.clear()
    memory.of.tell_again()
    assert told[3:] == [[]]
    memory.of.tell_again()
    assert len(told) == 4
