"""Which version is in use: promotion through a gate, and the way back.

The gate is a comparison of challenger and champion on the same held-out chips (docs/decisions/0004-champion.md). Every
decision goes into the history of the model (`registry.history`) before the alias moves.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from registry import history, watchers
from registry.catalog import CHAMPION, ModelRef, Version, check_alias, find_version, versions
from registry.errors import Conflict, OptionsError
from registry.tracking import connect, patiently, told


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes the champion, why in a sentence, and the figures behind it."""

    promote: bool
    why: str
    gate: Mapping[str, Any] = field(default_factory=dict, compare=False)  # the record of `dlpk compare`


def promote(
    name: str,
    number: int,
    alias: str = CHAMPION,
    *,
    reason: str = "",
    scores: Mapping[str, float] | None = None,
    gate: Mapping[str, Any] | None = None,
    by: str = "",
) -> Version:
    """Give an alias to a version, and write down when, why, by whom and on which figures.

    `by` is who approved it, by default this user. MLflow lets the last of two simultaneous promotions win, so hold a
    lock around it where that can happen.
    """
    return _move(name, number, alias, history.PROMOTED, reason=reason, gate=gate or {}, by=by, scores=scores or {})


def promote_through(
    version: Version, comparison: Mapping[str, Any], alias: str = CHAMPION, *, reason: str = "", by: str = ""
) -> Version:
    """Promote a version that a comparison with the present holder on the same chips shows to be surely better.

    Raises Conflict when it is not, which the history keeps too; OptionsError when the record is of other models.
    """
    holder = next((known for known in versions(version.name) if alias in known.aliases), None)
    decision = passed(comparison, version, holder)
    if not decision.promote:
        keep(version.name, version.number, alias, reason=decision.why, gate=comparison)
        do = "leave the gate out and give a --reason to promote it all the same"
        raise Conflict(f"stays as it is: {decision.why}", where=version.ref, do=do)
    why = f"{decision.why}; {reason}" if reason else decision.why
    scores = {str(comparison["primary"]): float(comparison["a"])}
    return promote(version.name, version.number, alias, reason=why, scores=scores, gate=comparison, by=by)


def rollback(name: str, alias: str = CHAMPION, *, reason: str = "", by: str = "") -> Version:
    """Give an alias back to the version that held it before. Twice goes back two versions.

    Raises Conflict when nobody holds it, or nothing is left that held it before.
    """
    known = {version.number: version for version in versions(name)}
    holder = next((version for version in known.values() if alias in version.aliases), None)
    if holder is None:
        raise Conflict(f"nothing is {alias}", where=name, do=f"dlpk promote {name}@N gives the alias")
    before = history.predecessors(history.history(name, alias), holder.number)
    target = next((number for number in before if number in known), None)
    if target is None:
        do = f"see dlpk history {name}; dlpk promote {name}@N takes any version"
        raise Conflict(f"no version that is still there was {alias} before", where=holder.ref, do=do)
    return _move(name, target, alias, history.ROLLED_BACK, reason=reason or f"back from {holder.ref}", by=by)


def keep(name: str, number: int, alias: str = CHAMPION, *, reason: str, gate: Mapping[str, Any] | None = None) -> None:
    """Write down that a version was judged and did not get the alias; once for each pair of versions."""
    events = history.history(name, alias)
    holder = next((v.number for v in versions(name) if alias in v.aliases), None)
    if not any((e.action, e.version, e.replaced) == (history.KEPT, number, holder) for e in events):
        history.record(name, history.now(alias, history.KEPT, number, holder, reason=reason, gate=gate or {}))


def decide(challenger: Mapping[str, float], champion: Mapping[str, float] | None, metric: str) -> Decision:
    """Whether the challenger is better: both were scored on the same chips, and more of `metric` is better."""
    mine = challenger.get(metric, math.nan)
    if not math.isfinite(mine):
        return Decision(False, f"the challenger has no {metric}")
    if champion is None:
        return Decision(True, f"there is no champion yet; the challenger has {metric} {mine:.4f}")
    theirs = champion.get(metric, math.nan)
    if not math.isfinite(theirs):
        return Decision(True, f"the champion has no {metric} here; the challenger has {mine:.4f}")
    word = "better than" if mine > theirs else "not better than"
    return Decision(mine > theirs, f"{metric} {mine:.4f} is {word} the champion's {theirs:.4f}")


def better(comparison: Mapping[str, Any]) -> Decision:
    """Yes when 95 % of the draws of the chips, the whole interval of the difference, are on the challenger's side.

    No when the challenger was trained on them, so that they flatter it.
    `comparison` is the record of `dlpk compare CHALLENGER CHAMPION CHIPS`.
    """
    metric, mine, theirs = (comparison[key] for key in ("primary", "a", "b"))
    low, high = comparison["interval"]
    word = "better than" if low > 0 else "not better than" if mine <= theirs else "not surely better than"
    doubt = f"difference {mine - theirs:+.4f}, 95 % between {low:+.4f} and {high:+.4f} on {comparison['chips']} chips"
    why, flattery = f"{metric} {mine:.4f} is {word} the champion's {theirs:.4f}, {doubt}", _flattery(comparison)
    return Decision(low > 0 and not flattery, f"{why}, but {flattery}" if flattery else why, comparison)


def _flattery(comparison: Mapping[str, Any]) -> str:
    """What warns of the challenger's figures. A record that does not tell the sides warns of both."""
    if "a" not in comparison.get("learnt", "a" if comparison.get("warnings") else ""):
        return ""
    return str(next(iter(comparison.get("warnings", ())), "the challenger was trained on these chips"))


def passed(comparison: Mapping[str, Any], challenger: Version, champion: Version | None) -> Decision:
    """The verdict of a comparison that was made of these two versions. Raises OptionsError when it is of others."""
    try:
        models = {side: comparison["models"][side]["sha256"] for side in ("a", "b")}
        decision = better(comparison)
    except (KeyError, TypeError, ValueError) as error:
        do = "give what `dlpk compare CHALLENGER CHAMPION CHIPS` printed"
        raise OptionsError("expected the record of a comparison", where="--gate", got=str(error), do=do) from error
    rivals = {"a": challenger, "b": champion}
    for side, version in rivals.items():
        if version and models[side] != version.sha256:
            do = f"compare {challenger.ref} with {champion.ref if champion else 'a champion'} again"
            raise OptionsError(f"was made of another model than {version.ref}", where=f"--gate models.{side}", do=do)
    return decision


def _move(
    name: str, number: int, alias: str, action: str, *, scores: Mapping[str, float] | None = None, **why: Any
) -> Version:
    check_alias(alias)
    new = find_version(ModelRef(name, number))
    old = next((version for version in versions(name) if alias in version.aliases), None)
    history.record(name, history.now(alias, action, number, old.number if old else None, **why))
    client, moment = connect(), datetime.now(UTC).isoformat(timespec="seconds")
    with told():
        if old and old.number != number:
            for key, text in {"until": moment, "replaced_by": str(number)}.items():
                patiently(client.set_model_version_tag, name, str(old.number), f"{alias}.{key}", text)
        notes = {"since": moment, "reason": why["reason"], "replaced": str(old.number) if old else ""}
        known = {key: value for key, value in (scores or {}).items() if math.isfinite(value)}
        notes["scores"] = json.dumps(known) if known else ""
        for key, text in notes.items():
            if text:
                patiently(client.set_model_version_tag, name, str(number), f"{alias}.{key}", text)
        patiently(client.set_registered_model_alias, name, alias, str(number))
    version = find_version(ModelRef(new.name, number))
    if alias == CHAMPION and (old is None or old.number != number):
        watchers.tell(version, why["reason"])
    return version
