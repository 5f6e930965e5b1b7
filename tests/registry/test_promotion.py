"""Which version is in use, how it came to be, and the way back."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry import history, watchers
from registry.catalog import Version, champion, find_version
from registry.cli import registry_commands
from registry.errors import Conflict, DlpkError, OptionsError
from registry.promotion import Decision, better, decide, passed, promote, promote_through, rollback
from registry.pruning import prune
from registry.tracking import connect

Publish = Callable[..., Version]


def run(*words: str) -> Any:
    command = next(command for command in registry_commands if command.name == words[0])
    return json.loads(CliRunner().invoke(command, list(words[1:]), catch_exceptions=False).output)


def against(a: Version, b: Version, low: float = 0.02, high: float = 0.08) -> dict[str, Any]:
    """The record of `dlpk compare`."""
    models = {side: {"name": v.name, "sha256": v.sha256} for side, v in {"a": a, "b": b}.items()}
    figures = {"primary": "ap50", "a": 0.65, "b": 0.6, "interval": [low, high], "surely": 0.99, "chips": 40}
    return {**figures, "models": models, "chips_digest": "d1"}


# -- promoting ---------------------------------------------------------------------------------------------------------
def test_a_promotion_is_told_at_both_versions(published: Publish) -> None:
    published(b"one")
    published(b"two")
    first = promote("roofs", 1, reason="the first")
    second = promote("roofs", 2, reason="AP50 is better", scores={"AP50": 0.7})
    first_now = find_version("roofs@1")
    assert (("champion",), "the first") == (first.aliases, first.notes["champion.reason"])
    assert (("challenger", "champion"), "1") == (second.aliases, second.notes["champion.replaced"])
    assert ((), "2") == (first_now.aliases, first_now.notes["champion.replaced_by"])
    assert first_now.notes["champion.until"] == second.notes["champion.since"]
    assert '{"AP50": 0.7}' == second.notes["champion.scores"]
    assert second == champion("roofs")


def test_who_watches_is_told_of_each_new_champion_and_hinders_nothing(
    published: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard = list[tuple[str, str]]()

    def broken(version: Version, why: str) -> None:
        raise OSError(f"nobody listens to {version.ref}")

    monkeypatch.setattr(watchers, "champions", {lambda version, why: heard.append((version.ref, why)), broken})
    published(b"one")
    published(b"two")
    for number, alias in ((1, "champion"), (1, "champion"), (2, "trusted"), (2, "champion")):
        promote("roofs", number, alias, reason="by hand")
    rollback("roofs")
    assert [("roofs@1", "by hand"), ("roofs@2", "by hand"), ("roofs@1", "back from roofs@2")] == heard
    assert "nobody listens to roofs@2" in caplog.text
    assert ("champion",) == find_version("roofs@1").aliases[:1]


@pytest.mark.parametrize("write", ["set_registered_model_tag", "set_model_version_tag", "set_registered_model_alias"])
def test_another_promotion_at_the_same_moment_is_waited_for(
    published: Publish, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    real, taken = getattr(MlflowClient, write), [MlflowException("duplicate key value violates unique constraint")]

    def busy(client: MlflowClient, *args: Any) -> None:
        if taken:
            raise taken.pop()
        real(client, *args)

    published()
    monkeypatch.setattr(MlflowClient, write, busy)
    assert "by hand" == promote("roofs", 1, reason="by hand").notes["champion.reason"]
    assert [] == taken


@pytest.mark.parametrize("alias", ["latest", "v3", "3", "", "a b"])
def test_an_alias_that_mlflow_keeps_is_refused(alias: str) -> None:
    with pytest.raises(OptionsError, match="use a word such as champion"):
        promote("roofs", 1, alias)


@pytest.mark.parametrize(
    ("challenger", "holder", "decision"),
    [
        ({"AP50": 0.7}, None, Decision(True, "there is no champion yet; the challenger has AP50 0.7000")),
        ({"AP50": 0.7}, {"AP50": 0.6}, Decision(True, "AP50 0.7000 is better than the champion's 0.6000")),
        ({"AP50": 0.6}, {"AP50": 0.6}, Decision(False, "AP50 0.6000 is not better than the champion's 0.6000")),
        ({"AP50": float("nan")}, {"AP50": 0.6}, Decision(False, "the challenger has no AP50")),
        ({}, None, Decision(False, "the challenger has no AP50")),
        ({"AP50": 0.1}, {"mIoU": 0.6}, Decision(True, "the champion has no AP50 here; the challenger has 0.1000")),
    ],
)
def test_the_better_one_wins_and_a_draw_changes_nothing(
    challenger: dict[str, float], holder: dict[str, float] | None, decision: Decision
) -> None:
    assert decision == decide(challenger, holder, "AP50")


# -- the gate ----------------------------------------------------------------------------------------------------------
def test_a_gain_beyond_chance_passes_the_gate_and_its_figures_stay(published: Publish, tmp_path: Path) -> None:
    first, second = promote("roofs", published(b"one").number), published(b"two")
    gate = tmp_path / "gate.json"
    gate.write_text(json.dumps(against(second, first)))
    run("promote", "roofs@2", "--gate", str(gate), "--reason", "seen by Ada")
    event = run("history", "roofs")[0]
    assert (2, 1, "promoted", True) == (event["version"], event["replaced"], event["action"], event["held"])
    assert ([0.02, 0.08], 40, "d1") == tuple(event["gate"][key] for key in ("interval", "chips", "chips_digest"))
    assert event["reason"].endswith("; seen by Ada")


def test_a_gain_that_may_be_luck_is_refused_and_written_down_once(published: Publish) -> None:
    first, second = promote("roofs", published(b"one").number), published(b"two")
    for _ in range(2):
        with pytest.raises(Conflict, match=r"roofs@2: stays as it is: ap50 0.6500 is not surely better"):
            promote_through(second, against(second, first, low=-0.01))
    assert ["kept", "promoted"] == [event.action for event in history.history("roofs")]
    assert 1 == find_version("roofs@champion").number


WARNING = "roofs was trained on these chips"


@pytest.mark.parametrize(
    ("told", "flattered"),
    [
        ({"warnings": [WARNING]}, True),  # of an older version, which told no side
        ({"warnings": [WARNING], "learnt": ["a"]}, True),
        ({"learnt": ["a", "b"]}, True),  # printed by the command
        ({"warnings": [WARNING], "learnt": ["b"]}, False),
        ({"warnings": []}, False),
    ],
)
def test_chips_that_the_challenger_was_trained_on_open_no_gate(told: dict[str, Any], flattered: bool) -> None:
    v1, v2 = (Version("roofs", i, "", str(i), 1, datetime.now(UTC)) for i in (1, 2))
    decision = passed({**against(v2, v1), **told}, v2, v1)
    assert (not flattered, flattered) == (decision.promote, "was trained on these chips" in decision.why)


def test_the_refusal_tells_the_warning(published: Publish) -> None:
    first, second = promote("roofs", published(b"one").number), published(b"two")
    with pytest.raises(Conflict, match=f"roofs@2: stays as it is: ap50 0.6500 is better .* but {WARNING}"):
        promote_through(second, {**against(second, first), "warnings": [WARNING]})
    assert "roofs@1" == find_version("roofs@champion").ref


def test_a_comparison_of_other_models_opens_no_gate(published: Publish) -> None:
    first, second, third = promote("roofs", published(b"one").number), published(b"two"), published(b"three")
    with pytest.raises(OptionsError, match=r"models\.a: was made of another model than roofs@3"):
        promote_through(third, against(second, first))
    with pytest.raises(OptionsError, match="expected the record of a comparison"):
        promote_through(third, {"primary": "ap50"})
    assert not better(against(second, first, low=0.0)).promote


# -- history and the way back ------------------------------------------------------------------------------------------
def test_the_history_tells_who_was_champion_when_why_and_by_whom(
    published: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLPK_USER", "ada")
    published(b"one")
    published(b"two")
    promote("roofs", 1, reason="the first")
    promote("roofs", 2, reason="more roofs", by="grace")
    promote("roofs", 1, "tested")
    second, first = history.history("roofs")
    assert (2, 1, "grace", "more roofs", None) == (
        second.version,
        second.replaced,
        second.by,
        second.reason,
        second.until,
    )
    assert (1, None, "ada", "the first", second.at) == (
        first.version,
        first.replaced,
        first.by,
        first.reason,
        first.until,
    )
    assert (True, True) == (first.held, second.held)
    assert ["tested", "champion", "champion"] == [event.alias for event in history.history("roofs", "")]


@pytest.mark.slow
def test_a_rollback_goes_back_one_version_each_time(published: Publish) -> None:
    for weights in (b"one", b"two", b"three"):
        promote("roofs", published(weights).number)
    assert ["roofs@2", "roofs@1"] == [rollback("roofs").ref, rollback("roofs", reason="it sees ponds").ref]
    with pytest.raises(Conflict, match=r"roofs@1: no version that is still there was champion before"):
        rollback("roofs")
    told = [(event.action, event.version, event.reason) for event in history.history("roofs")[:2]]
    assert [("rolled back", 1, "it sees ponds"), ("rolled back", 2, "back from roofs@3")] == told
    assert "roofs@3" == promote("roofs", 3).ref
    assert "roofs@1" == run("rollback", "roofs")["ref"]


@pytest.mark.slow
def test_an_alias_that_another_program_moved_is_seen(published: Publish) -> None:
    for weights in (b"one", b"two", b"three"):
        published(weights)
    promote("roofs", 1)
    connect().set_registered_model_alias("roofs", "champion", "2")
    assert [False] == [event.held for event in history.history("roofs")]
    promote("roofs", 3)
    assert [(3, 2, True), (1, None, False)] == [(e.version, e.replaced, e.held) for e in history.history("roofs")]
    assert "roofs@2" == rollback("roofs").ref


@pytest.mark.slow
def test_the_version_to_roll_back_to_is_never_pruned(published: Publish) -> None:
    for weights in (b"one", b"two", b"three", b"four"):
        published(weights)
    promote("roofs", 1)
    promote("roofs", 3)
    promote("roofs", 4)
    rollback("roofs")
    assert "was champion before roofs@3" == prune(1).keep["roofs@1"]
    assert "roofs@1" == rollback("roofs").ref


def test_no_champion_no_way_back(published: Publish) -> None:
    published()
    with pytest.raises(Conflict, match="nothing is champion"):
        rollback("roofs")
    assert [] == history.history("roofs")
    with pytest.raises(DlpkError):
        history.history("gone")
