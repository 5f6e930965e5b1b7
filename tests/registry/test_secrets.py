"""What opens an address is neither shown nor kept."""

import math

import pytest

from registry.errors import NotFound
from registry.secrets import bare, plain


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("https://ada@host/a.tif", "https://ada:word@host/a.tif"),
        ("https://host/a.tif?sv=2&sig=***&b=1", "https://host/a.tif?sv=2&sig=a%2Bb&b=1"),
        ("/vsicurl/https://host/a?X-Amz-Signature=***#red", "/vsicurl/https://host/a?X-Amz-Signature=0f#red"),
        ("see 'https://host/0?f=json&token=***' and wait", "see 'https://host/0?f=json&token=abc' and wait"),
        ("https://host/a?SUBSCRIPTION-KEY=***&access_token=***", "https://host/a?SUBSCRIPTION-KEY=k&access_token=t"),
        ("https://host/a?keyword=roof&design=1", "https://host/a?keyword=roof&design=1"),
        ("two: words@home, a?token=1", "two: words@home, a?token=1"),
    ],
)
def test_addresses_are_shown_without_what_opens_them(expected: str, text: str) -> None:
    assert expected == bare(text)
    assert expected == str(NotFound(text))


def test_a_document_is_kept_without_secrets_and_numbers_that_json_has_not() -> None:
    told = {"imagery": ["s3://b/a.tif", "https://host/a?sig=1"], "x": (math.nan, -math.inf, 1.5, 3), "none": None}
    expected = {"imagery": ["s3://b/a.tif", "https://host/a?sig=***"], "x": [None, None, 1.5, 3], "none": None}
    assert expected == plain(told)
