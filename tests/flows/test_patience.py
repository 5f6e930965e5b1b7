import pytest

from flows.patience import patiently
from registry.errors import Denied


def test_what_a_server_refuses_is_asked_once() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise Denied("answered 403")

    with pytest.raises(Denied, match="answered 403"):
        patiently(ask)
    assert [1] == asked
