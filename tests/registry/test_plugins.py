import pytest

from registry import plugins, stores
from registry.errors import NotFound, OptionsError
from registry.stores import open_store


def test_the_folder_is_the_list_of_choices() -> None:
    assert ["file", "s3"] == plugins.names(stores)


def test_a_choice_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(NotFound, match=r"no 'gs' in registry\.stores; it has file, s3"):
        plugins.load(stores, "gs")


def test_every_store_opens_by_its_scheme() -> None:
    assert all(callable(plugins.load(stores, name).connect) for name in plugins.names(stores))


@pytest.mark.parametrize("uri", ["gs://bucket/models", "models", "file://host/models", "s3:///models"])
def test_a_store_that_cannot_be_is_told(uri: str) -> None:
    with pytest.raises(OptionsError, match=r"file:///|s3://bucket"):
        open_store(uri)
