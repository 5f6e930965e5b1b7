from typing import Any

import pytest
from pydantic import BaseModel, Field

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
        ("recipe.notes", "{", "JSON"),
    ],
)
def test_what_is_wrong_is_told_beside_its_field(path: str, text: str, told: str) -> None:
    kept = {"recipe": {"train": {}}} if path == "recipe.name" else KEPT
    _, wrong = filled(SCHEMA, kept, {path: text})
    assert path in wrong
    assert told in wrong[path]


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
