from types import SimpleNamespace

import pytest

from registry import records
from registry.records import print_record, print_rows, text


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "60")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (True, "True"),
        ([1, "a"], "1, a"),
        (list(range(1, 370)), "1, 2, 3, ... 369 (369)"),
        ({"a": 1, "b": [2, 3]}, "a 1\nb 2, 3"),
        ({}, "none"),
        ("\x1b[31mred\x07", "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_value_reads_as_people_write_it(value: object, shown: str) -> None:
    assert shown == text(value)


@pytest.mark.usefixtures("terminal")
def test_what_a_package_says_of_itself_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    classes = [
        {"value": 1, "name": "[/bold]", "color": [230, 60, 40]},
        {"value": 2, "name": "x", "color": [-1, -1, -1]},
    ]
    print_record({"summary": "[red]no[/blue] \x1b]0;title\x07", "classes": classes, "sha256": "a" * 64})
    told = capsys.readouterr().out
    assert "[red]no[/blue]" in told
    assert "1 [/bold] (230,60,40)" in told
    assert "\x1b]0;" not in told
    assert 64 == told.count("a") - sum(word.count("a") for word in ("summary", "classes", "sha256", "title"))


@pytest.mark.usefixtures("terminal")
def test_no_rows_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], ["ref"], False, nothing="No models are published yet.")
    assert "No models are published yet.\n" == capsys.readouterr().out
