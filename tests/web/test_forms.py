import importlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, Field

from registry.web import templating
from registry.web.forms import filled, moved, problems
from registry.web.limits import Buckets
from registry.web.schema import fields


class Train(BaseModel):
    network: str = "unet"
    epochs: int = Field(20, ge=1, description="how often all chips are seen")
    rate: float | None = None
    augment: bool = True


class Scene(BaseModel):
    imagery: str | list[str]
    bands: list[int] | None = None


class Recipe(BaseModel):
    name: str
    scenes: list[Scene] = []
    train: Train = Train()
    extent: tuple[float, float, float, float] | None = None
    notes: dict[str, Any] = {}


SCHEMA = {"properties": {"recipe": {"$ref": "#/definitions/Recipe"}}, "required": ["recipe"]} | {
    "definitions": {"Recipe": Recipe.model_json_schema(ref_template="#/definitions/{model}")}
    | Recipe.model_json_schema(ref_template="#/definitions/{model}")["$defs"]
}
KEPT: dict[str, Any] = {"recipe": {"name": "roofs", "train": {"epochs": 30}, "scenes": [{"imagery": "a.tif"}]}}


def test_every_parameter_becomes_a_field_of_its_kind() -> None:
    (recipe,) = fields(SCHEMA, KEPT, {})
    kinds = {one.name: one.kind for one in recipe.fields}
    assert {"name": "text", "scenes": "rows", "train": "group", "extent": "numbers", "notes": "json"} == kinds
    train = {one.name: one for one in next(one for one in recipe.fields if one.name == "train").fields}
    assert {"network": "text", "epochs": "integer", "rate": "number", "augment": "flag"} == {
        name: one.kind for name, one in train.items()
    }
    assert (30, 20, 1) == (train["epochs"].value, train["epochs"].default, train["epochs"].minimum)


def test_a_form_is_laid_over_what_the_deployment_has() -> None:
    form = {
        "recipe.train.epochs": "5",
        "recipe.train.rate": "1e-3",
        "recipe.train.augment": "no",
        "recipe.extent": "1, 2, 3.5, 4",
        "recipe.scenes.#": "2",
        "recipe.scenes.0.imagery": "a.tif",
        "recipe.scenes.1.imagery": "b.tif\r\nc.tif",
        "recipe.scenes.1.bands": "3\r\n2",
        "recipe.notes": '{"by": "anna"}',
    }
    parameters, wrong = filled(SCHEMA, KEPT, form)
    assert {} == wrong
    assert {
        "name": "roofs",
        "train": {"epochs": 5, "rate": 0.001, "augment": False},
        "extent": [1, 2, 3.5, 4],
        "scenes": [{"imagery": "a.tif"}, {"imagery": ["b.tif", "c.tif"], "bands": [3, 2]}],
        "notes": {"by": "anna"},
    } == parameters["recipe"]
    Recipe.model_validate(parameters["recipe"])


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("recipe.train.epochs", "many", "whole number"),
        ("recipe.train.epochs", "0", "minimum"),
        ("recipe.name", "", "is needed"),
        ("recipe.extent", "1,2", "too short"),
        ("recipe.train.rate", "nan", "expected a number"),
        ("recipe.notes", "{", "JSON"),
        ("recipe.notes", '{"least": -Infinity}', "-Infinity is no number"),
    ],
)
def test_what_is_wrong_is_told_beside_its_field(path: str, text: str, told: str) -> None:
    kept = {"recipe": {"train": {}}} if path == "recipe.name" else KEPT
    _, wrong = filled(SCHEMA, kept, {path: text})
    assert path in wrong
    assert told in wrong[path]


def test_json_is_replaced_and_not_laid_over_what_was_there() -> None:
    kept = {"recipe": {**KEPT["recipe"], "notes": {"by": "anna", "on": "monday"}}}
    assert {"by": "eve"} == filled(SCHEMA, kept, {"recipe.notes": '{"by": "eve"}'})[0]["recipe"]["notes"]
    assert {} == filled(SCHEMA, kept, {"recipe.notes": "{}"})[0]["recipe"]["notes"]


def test_an_object_that_may_be_null_stays_so_while_nothing_in_it_is_filled_in() -> None:
    schema = {"properties": {"scene": {"anyOf": [{"type": "null"}, Scene.model_json_schema()], "default": None}}}
    empty = {"scene.imagery": "", "scene.bands": ""}
    assert ({"scene": None}, {}) == filled(schema, {"scene": None}, empty)
    assert ({}, {}) == filled(schema, {}, empty)
    assert "is needed" == filled(schema, {}, {**empty, "scene.bands": "1"})[1]["scene.imagery"]
    assert ({"scene": {"imagery": "a.tif"}}, {}) == filled(schema, {}, {**empty, "scene.imagery": "a.tif"})


class Posted(HTMLParser):
    """What a browser posts of a form that nobody has touched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pairs: dict[str, str] = {}
        self._choice = self._text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {key: value or "" for key, value in attrs}
        name = told.get("name", "")
        if tag == "input" and (told.get("type") != "checkbox" or "checked" in told):
            self.pairs[name] = told.get("value", "")
        elif tag == "select":
            self._choice = name
        elif tag == "option" and (self._choice not in self.pairs or "selected" in told):
            self.pairs[self._choice] = told["value"]
        elif tag == "textarea":
            self._text = name
            self.pairs[name] = ""

    def handle_data(self, data: str) -> None:
        if self._text:
            self.pairs[self._text] += data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        self._text = "" if tag == "textarea" else self._text


DEPLOYMENTS = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_whose_form_nobody_touched_runs_as_it_is(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].removesuffix(".fn").rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    schema, parameters = parameter_schema(flow.fn).model_dump_for_openapi(), deployment["parameters"]
    page = templating._environment().from_string(
        '{% from "_fields.html" import field %}{% for one in known %}{{ field(one, {}) }}{% endfor %}'
    )
    posted = Posted(page.render(known=fields(schema, parameters, {}))).pairs
    posted = {key: text for key, text in posted.items() if key and not key.startswith("_")}
    assert (parameters, {}) == filled(schema, parameters, posted)


def test_rows_come_and_go() -> None:
    form = {"s.#": "2", "s.0.a": "1", "s.1.a": "2"}
    assert "3" == (moved({**form, "_add": "s"}) or {})["s.#"]
    shorter = moved({**form, "_remove": "s.0"}) or {}
    assert ("1", "2") == (shorter["s.#"], shorter["s.0.a"])
    assert moved(form) is None


def test_a_schema_without_parameters_asks_nothing() -> None:
    assert [] == fields({}, {}, {})
    assert {} == problems({}, {})


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    bucket = Buckets(60, clock=lambda: now[0])
    assert [0] * 10 == [bucket.wait("a") for _ in range(10)]
    assert 1 == bucket.wait("a")
    assert 0 == bucket.wait("b")
    now[0] = 1
    assert 0 == bucket.wait("a")
