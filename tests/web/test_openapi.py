"""Every address of the JSON side is asked anything its OpenAPI allows: nothing fails, no answer breaks its word."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from registry.web.app import create
from registry.web.configuration import Configuration, Limits
from tests.web.conftest import TOKENS, WITH_TOKENS

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
PLENTY = Limits(requests=10**7, changes=10**7, sign_ins=10**7)
HEADERS = {"authorization": f"Bearer {TOKENS['promote']}"}


def test_no_request_breaks_an_answer(shelf: Path) -> None:
    assert shelf.is_dir()
    app = create(Configuration(tokens=WITH_TOKENS.tokens, limits=PLENTY, hosts=("localhost",)))
    schema = schemathesis.openapi.from_dict(app.openapi())
    operations = [found.ok() for found in schema.get_all_operations()]
    assert 12 == len(operations)
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def ask(case: Any) -> None:
            answer = case.call(app=app, base_url="http://localhost", headers=HEADERS)
            assert answer.status_code not in (500, 502), answer.text  # 503: there is no Prefect server
            case.validate_response(answer, excluded_checks=[not_a_server_error, positive_data_acceptance])

        ask()
