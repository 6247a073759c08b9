"""Whatever happens to a store, it answers as a plain list would; and a wrong one is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from histories import run_histories
from places import MemoryPlace, Place, place_fixture  # noqa: F401

from fraudstream.adapters.memory_series import MemorySeries
from fraudstream.adapters.profile_backend import Entry, SeriesRun
from fraudstream.profile import Mark, Recording


def test_every_history_is_answered_as_a_plain_list_would(place: Place) -> None:
    run_histories(place)


def _is_met(series: MemorySeries, entry: Entry, index: int) -> tuple[Recording, Mark]:
    """Take every retry for a duplicate."""
    outcome, mark = _MEET_AGAIN(series, entry, index)
    return Recording.DUPLICATE if outcome is Recording.RETRY else outcome, mark


def _is_never_found(*_: object) -> None:
    """Count what is delivered twice twice."""


def _reads_without_present(
    series: MemorySeries, time_ms: int, own: int | None, known_from_ms: int
) -> list[int]:
    """Leave the present event out of the windows that count it."""
    return _READ(series, time_ms, own - 1 if own else own, known_from_ms)


def _renews_never(*_: object) -> Recording:
    return Recording.SUPERSEDED


def _is_never_late(*_: object) -> bool:
    return False


def _forgets_too_little(series: MemorySeries, until_ms: int) -> int:
    return _FORGET(series, until_ms - 1)


def _merges_without_meeting(series: MemorySeries, run: SeriesRun) -> None:
    """Put every record of a run in, whether it is there or not."""
    series._take_in(run)


_MEET_AGAIN, _READ, _FORGET = MemorySeries._meet_again, MemorySeries.read, MemorySeries.forget


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        pytest.param("_meet_again", _is_met, id="a retry is taken for a duplicate"),
        pytest.param("_find", _is_never_found, id="a redelivery is counted again"),
        pytest.param("read", _reads_without_present, id="the present event is left out"),
        pytest.param("_renew_label", _renews_never, id="a newer finding changes nothing"),
        pytest.param("came_late", _is_never_late, id="a retry forgets that it came late"),
        pytest.param("forget", _forgets_too_little, id="an erasure leaves the last record"),
        pytest.param("merge", _merges_without_meeting, id="a merge doubles what is there"),
    ],
)
def test_a_twin_with_a_defect_is_found_out(
    monkeypatch: pytest.MonkeyPatch, method: str, wrong: Callable[..., object]
) -> None:
    monkeypatch.setattr(MemorySeries, method, wrong)
    with pytest.raises(AssertionError, match=" is not "):
        run_histories(MemoryPlace(), is_shortened=False)
