"""Large gaps that are closed while the stream goes on, and stores that lose again meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from feature_names import DEFAULT_DEFINITION

from fraudstream.adapters.memory import MemoryBackend
from fraudstream.adapters.profile_backend import SeriesRun
from fraudstream.adapters.profiles import AttachPoint, BucketedProfileStore
from fraudstream.errors import ProfileLossError
from fraudstream.event import Record, Transaction
from fraudstream.pipeline import InputBatch
from fraudstream.profile import InputPartition, Located, ProfileBatch, Stretch
from fraudstream.repair import Repairer

HEALTHY, LOST = InputPartition(1, 0), InputPartition(1, 1)
T = 1_600_000_000_000
RECORDS = 6_000


class Clock:
    """A clock that is moved by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Log:
    """A log of which every slice takes a while to read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.read_from: list[tuple[InputPartition, int]] = []

    def read(self, partition: InputPartition, stretch: Stretch, records_max: int) -> InputBatch:
        self._clock.now_s += 0.02
        self.read_from.append((partition, stretch.start))
        end = min(stretch.end, stretch.start + records_max)
        records = [Record("t", partition.partition, n, T, None, None) for n in
                   range(stretch.start, end)]  # fmt: skip
        return InputBatch(records, {partition: Stretch(stretch.start, end)})


def parse(batch: InputBatch) -> ProfileBatch:
    ((partition, _),) = batch.stretches.items()
    return ProfileBatch((), [payment(partition, r.offset) for r in batch.records], batch.stretches)


def payment(partition: InputPartition, offset: int) -> Located:
    name = f"{partition.partition}-{offset}"
    event = Transaction(name, T + offset, f"c{offset % 50}", "t", 5, "EUR", 5)
    return Located(event, partition, offset)


class Restarting(MemoryBackend):
    """Memory that takes its time, and can be put back to what it saved, as by a restart."""

    runs = 0
    clock: Clock

    def merge(self, runs: Sequence[SeriesRun]) -> None:
        super().merge(runs)
        self.clock.now_s += 0.1

    def generation(self) -> str:
        return f"run {self.runs}"

    def put_back(self, saved: bytes) -> None:
        self._buckets = MemoryBackend.restore(DEFAULT_DEFINITION, saved)._buckets
        self.runs += 1


class Scene:
    """A worker of two partitions, one of which is lost; a batch arrives every turn."""

    def __init__(self, partitions: Sequence[InputPartition] = (HEALTHY, LOST)) -> None:
        self.clock = Clock()
        self.log = Log(self.clock)
        self.backend = Restarting(DEFAULT_DEFINITION)
        self.backend.clock = self.clock
        self.positions = dict.fromkeys(partitions, RECORDS)
        self.repairer = self.worker()
        self.store.initialise({HEALTHY: RECORDS})
        self.attach()

    def worker(self) -> Repairer:
        self.store = BucketedProfileStore(DEFAULT_DEFINITION, self.backend)
        return Repairer(self.store, self.log, parse, clock=self.clock, bulk_records_min=2_000)

    def attach(self, log_start: int = 0) -> None:
        starts = {HEALTHY: RECORDS, LOST: log_start}
        self.repairer.attach({p: AttachPoint(o, starts[p]) for p, o in self.positions.items()})

    def turn(self, arriving: int = 64) -> int:
        for partition in self.positions:
            self.positions[partition] += arriving
        self.clock.now_s += 0.05
        return self.repairer.turn(self.positions)

    def until_merged(self) -> None:
        """Go on until all is merged, and only the watermark is where it was."""
        for _ in range(100):
            self.turn(0)
            bulk = self.repairer._bulk
            if bulk is not None and bulk.portions is not None and bulk.portion is None:
                return
        pytest.fail("nothing was merged")

    def finish(self) -> None:
        for _ in range(400):
            try:
                if self.turn(0) == 0:
                    return
            except ProfileLossError:
                self.attach()
        pytest.fail("the gap was never closed")

    def records(self) -> int:
        found = self.backend.all_series().items()
        return sum(len(series.times_ms) for (name, _), series in found if name == "card_tx")


@pytest.mark.parametrize("partitions", [(HEALTHY, LOST), (LOST, HEALTHY)])
def test_a_large_gap_closes_though_every_batch_opens_small_ones(
    partitions: tuple[InputPartition, ...],
) -> None:
    scene = Scene(partitions)
    turns = next(number for number in range(100) if scene.turn() == 0)
    assert turns < 60
    assert scene.log.read_from.count((LOST, 0)) == 1


def test_a_flush_while_a_gap_is_merged_begins_the_merging_anew() -> None:
    scene = Scene([LOST])
    scene.until_merged()
    scene.backend.flush()
    scene.clock.now_s += 10
    scene.finish()
    assert scene.records() == RECORDS


def test_a_restart_from_a_snapshot_while_a_gap_is_merged_begins_it_anew() -> None:
    scene = Scene([LOST])
    saved = scene.backend.snapshot()
    scene.until_merged()
    scene.backend.put_back(saved)
    scene.finish()
    assert scene.records() == RECORDS


def test_a_forgetful_log_is_known_though_who_found_the_loss_has_ended() -> None:
    scene = Scene([LOST])
    scene.backend.flush()
    scene.attach(log_start=1_000)
    scene.repairer = scene.worker()  # a new process: all it has is what the store says
    scene.attach(log_start=1_000)
    scene.finish()
    assert scene.store.floor_ms() >= T + 1_000
