"""Two versions side by side: scores with their intervals, what differs in definition, files and training settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry import catalog
from registry.differences import between
from registry.emd import Emd
from registry.errors import DlpkError
from registry.records import text
from registry.web import pieces, shelf
from registry.web.access import Browsing
from registry.web.charts import Whisker, whisker
from registry.web.shelf import Figure, Told
from registry.web.templating import render

router = APIRouter(include_in_schema=False)
Refs = Annotated[list[str] | None, Query(max_length=20)]
SAME = "Both were scored on the same held-out chips."
OTHER = """They were scored on different chips, so a difference here may be one of the chips:
`dlpk compare` scores both on the same."""
LESS = ("_error", "_loss")  # ends of scores that are better the smaller they are
LONGEST = 300  # characters of a value


@dataclass(frozen=True)
class Row:
    """One score of both."""

    name: str
    figures: tuple[Figure | None, Figure | None]
    decides: bool
    drawn: Sequence[tuple[Figure | None, Whisker | None]]

    @property
    def difference(self) -> float | None:
        a, b = self.figures
        return a.value - b.value if a and b else None

    @property
    def gain(self) -> float:
        """Above 0 where the first is better."""
        difference = self.difference or 0.0
        return -difference if self.name.endswith(LESS) else difference


@router.get("/compare")
def compare(request: Request, _: Browsing, ref: Refs = None) -> Response:
    """Two references; with one or none, the form alone."""
    refs = [one.strip() for one in ref or () if one.strip()][:2]
    asked = [*refs, "", ""][:2]
    facts: dict[str, Any] = {"asked": asked, "pair": None, "wrong": ""}
    if len(refs) == 2:
        try:
            a, b = (shelf.told(catalog.find_version(one)) for one in refs)
            facts |= told_of(a, b)
        except DlpkError as error:
            facts["wrong"] = str(error)
    return render(request, "compare.html", facts, status=422 if facts["wrong"] else 200)


def told_of(a: Told, b: Told) -> dict[str, Any]:
    definition, members = differences_of(a, b)
    recipe = [
        (key, _short(a.recipe.get(key, "–")), _short(b.recipe.get(key, "–")))
        for key in dict.fromkeys([*a.recipe, *b.recipe])
        if a.recipe.get(key) != b.recipe.get(key)
    ]
    return {
        "pair": (a, b),
        "classes": [shelf.classes_of(side.version, side.document) for side in (a, b)],
        "pictures": [next(iter(shelf.pictures(side.members)), "") for side in (a, b)],
        "scores": score_rows(a, b),
        "remark": SAME if same_chips(a, b) else OTHER,
        "tables": [
            ("Training settings", "settings", recipe, "The recipes are alike, or none is recorded."),
            ("Definition", "definition", definition, "The definitions say the same."),
            ("Files", "files", members, "The files are the same."),
        ],
    }


def score_rows(a: Told, b: Told) -> list[Row]:
    """Every score that one of them has, that which decides first."""
    sides = [{figure.name: figure for figure in side.figures} for side in (a, b)]
    rows = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        pair = (sides[0].get(name), sides[1].get(name))
        rows.append(Row(name, pair, any(figure and figure.decides for figure in pair), _drawn(pair)))
    return rows


def _drawn(pair: tuple[Figure | None, Figure | None]) -> list[tuple[Figure | None, Whisker | None]]:
    """On the same axis: 0 to 1, or to the largest of both."""
    known = [figure for figure in pair if figure]
    ends = [number for figure in known for number in (figure.value, *(figure.interval or ()))]
    axis = (min(0.0, *ends), max(1.0, *ends))
    return [(figure, whisker(figure.value, figure.interval, axis) if figure else None) for figure in pair]


def differences_of(a: Told, b: Told) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Of the definitions, key by key, and of the files by their digests; no package is fetched."""
    found = between(_definition(a), _definition(b), a.members, b.members)
    definition = [(path, _short(left), _short(right)) for path, (left, right) in found["definition"].items()]
    words = {"only in a": ("there", "–"), "only in b": ("–", "there"), "other content": ("", "other content")}
    return definition, [(name, *words[what]) for name, what in found["members"].items()]


def _definition(side: Told) -> Mapping[str, Any]:
    name = next((member for member in side.members if "/" not in member and member.lower().endswith(".emd")), "")
    return Emd.parse(pieces.checked(side.version, name).decode("utf-8-sig"), name).document if name else {}


def same_chips(a: Told, b: Told) -> bool:
    """Both were scored on the same held-out chips, as far as is known."""
    return bool(_chips(a)) and _chips(a) == _chips(b)


def _chips(side: Told) -> str:
    found: str = (side.document.get("evaluation") or {}).get("data_digest", "")
    return found


def _short(value: Any) -> str:
    told = text(value) if not isinstance(value, str) else value
    return told if len(told) <= LONGEST else f"{told[:LONGEST]}…"
