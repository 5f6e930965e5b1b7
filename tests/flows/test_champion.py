from datetime import UTC, datetime

import pytest

from flows.champion import Comparison, Scores, judge, numbers
from registry.catalog import Version
from registry.errors import LabelError, StoreError


def version(number: int) -> Version:
    return Version("roofs", number, "file:///roofs.dlpk", "0" * 64, 10, datetime.now(UTC))


def scores(value: float) -> Scores:
    return {"primary": "ap50", "ap50": value, "per_class": {"roof": {"ap50": value}}}


def against(theirs: float, low: float, high: float) -> Comparison:
    """A challenger of 0.5 against a champion."""
    return {"primary": "ap50", "a": 0.5, "b": theirs, "interval": [low, high], "chips": 30}


def never(_: Version) -> Comparison:
    raise AssertionError("nobody asked for these scores")


def test_the_first_version_is_champion() -> None:
    verdict = judge(version(1), scores(0.4), None, never)
    assert verdict.promote
    assert "roofs@1 is champion: there is no champion yet; the challenger has ap50 0.4000" == verdict.why


def test_the_better_one_is_champion() -> None:
    verdict = judge(version(2), scores(0.5), version(1), lambda _: against(0.4, 0.06, 0.14))
    assert verdict.promote
    assert (
        "roofs@2 is champion: ap50 0.5000 is better than the champion's 0.4000, difference +0.1000, "
        "95 % between +0.0600 and +0.1400 on 30 chips (roofs@1)"
    ) == verdict.why


def test_a_gain_that_may_be_luck_changes_nothing() -> None:
    verdict = judge(version(2), scores(0.5), version(1), lambda _: against(0.48, -0.01, 0.05))
    assert not verdict.promote
    assert "roofs@2 stays challenger: ap50 0.5000 is not surely better than the champion's 0.4800" in verdict.why


def test_chips_that_it_was_trained_on_speak_for_no_version() -> None:
    told = {**against(0.4, 0.06, 0.14), "warnings": ["roofs was trained on these chips"], "learnt": ["a"]}
    verdict = judge(version(2), scores(0.5), version(1), lambda _: told)
    assert not verdict.promote
    assert "+0.1400 on 30 chips, but roofs was trained on these chips (roofs@1)" in verdict.why


@pytest.mark.parametrize(("theirs", "low", "high"), [(0.5, 0.0, 0.0), (0.6, -0.15, -0.05)])
def test_a_draw_or_a_loss_changes_nothing(theirs: float, low: float, high: float) -> None:
    verdict = judge(version(2), scores(0.5), version(1), lambda _: against(theirs, low, high))
    assert not verdict.promote
    assert "is not better than the champion's" in verdict.why


def test_the_champion_is_not_measured_against_itself() -> None:
    assert not judge(version(1), scores(0.4), version(1), never).promote


def test_a_champion_that_cannot_read_the_chips_stays_until_a_person_decides() -> None:
    def unfit(_: Version) -> Comparison:
        raise LabelError("expected 4 bands", got=3)

    verdict = judge(version(2), scores(0.9), version(1), unfit)
    assert not verdict.promote
    assert "expected 4 bands, got 3), so a person must decide" in verdict.why


def test_a_silent_store_is_no_verdict() -> None:
    def silent(_: Version) -> Comparison:
        raise StoreError("did not answer")

    with pytest.raises(StoreError):
        judge(version(2), scores(0.9), version(1), silent)


def test_only_single_figures_are_numbers() -> None:
    assert {"ap50": 0.4} == numbers(scores(0.4))
