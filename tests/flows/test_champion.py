from datetime import UTC, datetime

import pytest

from flows.champion import Scores, judge, numbers
from registry.catalog import Version
from registry.errors import LabelError, StoreError


def version(number: int) -> Version:
    return Version("roofs", number, "file:///roofs.dlpk", "0" * 64, 10, datetime.now(UTC))


def scores(value: float) -> Scores:
    return {"primary": "ap50", "ap50": value, "per_class": {"roof": {"ap50": value}}}


def never(_: Version) -> Scores:
    raise AssertionError("nobody asked for these scores")


def test_the_first_version_is_champion() -> None:
    verdict = judge(version(1), scores(0.4), None, never)
    assert verdict.promote
    assert "roofs@1 is champion: there is no champion yet; the challenger has ap50 0.4000" == verdict.why


def test_the_better_one_is_champion() -> None:
    verdict = judge(version(2), scores(0.5), version(1), lambda _: scores(0.4))
    assert verdict.promote
    assert "roofs@2 is champion: ap50 0.5000 is better than the champion's 0.4000 (roofs@1)" == verdict.why


def test_a_draw_changes_nothing() -> None:
    verdict = judge(version(2), scores(0.4), version(1), lambda _: scores(0.4))
    assert not verdict.promote
    assert "roofs@2 stays challenger: ap50 0.4000 is not better than the champion's 0.4000 (roofs@1)" == verdict.why


def test_the_champion_is_not_measured_against_itself() -> None:
    assert not judge(version(1), scores(0.4), version(1), never).promote


def test_a_champion_that_cannot_read_the_chips_stays_until_a_person_decides() -> None:
    def unfit(_: Version) -> Scores:
        raise LabelError("expected 4 bands", got=3)

    verdict = judge(version(2), scores(0.9), version(1), unfit)
    assert not verdict.promote
    assert "expected 4 bands, got 3), so a person must decide" in verdict.why


def test_a_silent_store_is_no_verdict() -> None:
    def silent(_: Version) -> Scores:
        raise StoreError("did not answer")

    with pytest.raises(StoreError):
        judge(version(2), scores(0.9), version(1), silent)


def test_only_single_figures_are_numbers() -> None:
    assert {"ap50": 0.4} == numbers(scores(0.4))
