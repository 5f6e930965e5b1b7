"""What the page of a flow run says when it is done: markdown with scores and links, and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.champion import numbers
from flows.drift import Drift
from flows.new_scenes import Summary
from flows.work import Work
from registry.catalog import Version
from registry.promotion import Decision
from registry.pruning import Pruning
from registry.secrets import bare

Row = Mapping[str, Any]


def retrain_page(work: Work, version: Version, scores: dict[str, Any], verdict: Decision) -> tuple[str, list[Row]]:
    """Markdown and rows of a retraining."""
    figures = numbers(scores)
    links = [
        f"- package `{version.uri}` ({version.size / 1e6:.1f} MB, sha256 `{version.sha256[:12]}`)",
        f"- experiment run {_link(work.run.id, work.run.url or bare(work.run.tracking_uri))}",
        f"- working folder `{work.folder}`",
    ]
    table = ["| score | value |", "|---|---|", *(f"| {figure} | {value:.4f} |" for figure, value in figures.items())]
    markdown = "\n".join([f"# {version.ref}", "", f"**{verdict.why}**", "", *_warned(scores), *links, "", *table])
    rows: list[Row] = [
        {"model": version.ref, "score": name, "value": round(value, 4)} for name, value in figures.items()
    ]
    return markdown, rows


def chips_page(record: Row) -> tuple[str, list[Row]]:
    """Markdown and rows of an export; the record is that of `dlpk export`."""
    rows: list[Row] = [{"class": name, **amounts} for name, amounts in record.get("classes", {}).items()]
    facts = {"split": record.get("split"), "left out": record.get("left_out")}
    lines = [f"- {word}: {_counted(counts)}" for word, counts in facts.items() if counts]
    places = [f"- {word} `{record[word]}`" for word in ("folder", "preview", "report", "digest")]
    table = (
        ["| class | chips |", "|---|---|", *(f"| {row['class']} | {row['chips']:,} |" for row in rows)] if rows else []
    )
    return "\n".join([f"# {record['chips']:,} chips", "", *_warned(record), *lines, *places, "", *table]), rows


def inference_page(model: str, sha256: str, results: Sequence[Row]) -> tuple[str, list[Row]]:
    """Markdown and rows of an inference; a result is {imagery, result, counts}."""
    rows: list[Row] = [
        {"imagery": r["imagery"], "class": c, "count": n} for r in results for c, n in r["counts"].items()
    ]
    listed = [f"- `{r['result']}`: {_counted(r['counts'])}" for r in results]
    return "\n".join([f"# {model}", "", f"sha256 `{sha256[:12]}`", "", *listed]), rows


def scenes_page(model: str, place: str, summary: Summary) -> tuple[str, list[Row]]:
    """Markdown and rows of a run over new scenes."""
    rows: list[Row] = [
        {"scene": r["scene"], "result": r["result"], "found": _counted(r["counts"])} for r in summary.results
    ]
    failed = [f"- **{scene}** gave nothing: {why}" for scene, why in sorted(summary.failed.items())]
    told = f"{summary.found} scenes, {summary.new} of them new; {len(rows)} results by this run, {summary.total} at"
    return "\n".join([f"# {model}", "", f"{told} `{place}`", "", *failed]), rows


def drift_page(model: str, report: str, scores: dict[str, Any], manifest: Row, verdict: Drift) -> tuple[str, list[Row]]:
    """Markdown and rows of a champion scored again: each figure now and when it was published."""
    before = numbers(dict(manifest.get("evaluation") or {}))
    rows: list[Row] = [
        {"score": name, "now": round(n, 4), "before": before.get(name)} for name, n in numbers(scores).items()
    ]
    word = "has drifted" if verdict.drifted else "holds"
    return "\n".join([f"# {model} {word}", "", verdict.why, "", *_warned(scores), f"- report `{report}`"]), rows


def imports_page(place: str, records: Sequence[Row]) -> tuple[str, list[Row]]:
    """Markdown and rows of an import; a record is {package, ref, kind, runs_with} or {package, error | passed_over}."""
    why = {record["package"]: record.get("error", record.get("passed_over")) for record in records}
    lines = [f"- **{package}**: {text}" for package, text in why.items() if text]
    return "\n".join([f"# {len(records) - len(lines)} imported", "", f"from `{place}`", "", *lines]), list(records)


def prune_page(plan: Pruning, folders: Sequence[str], *, dry_run: bool) -> tuple[str, list[Row]]:
    """Markdown and rows of a pruning: what goes, what stays and why."""
    rows: list[Row] = [{"version": version.ref, "fate": "goes"} for version in plan.remove]
    rows += [{"version": ref, "fate": f"stays: {why}"} for ref, why in plan.keep.items()]
    size = sum(version.size for version in plan.remove)
    title = f"# {len(plan.remove)} versions, {size / 1e6:.1f} MB{' (not removed: dry run)' if dry_run else ''}"
    return "\n".join([title, "", *(f"- `{folder}`" for folder in folders)]), rows


def _warned(record: Row) -> list[str]:
    return [f"> **Warning:** {line}\n" for line in record.get("warnings", ())]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "nothing found"


def _link(text: str, url: str) -> str:
    return f"[{text}]({url})" if url.startswith("http") else f"`{text}` in `{url}`"
