"""Whatever is sent to any operation of the OpenAPI document, the service answers as that says, and never 5xx."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from serving import Service

KNOWN = (200, 201, 202, 204, 206, 400, 401, 402, 403, 404, 405, 409, 413, 415, 416, 422, 429)


@pytest.mark.parametrize("examples", [3, pytest.param(15, marks=pytest.mark.long)])
def test_no_request_brings_it_down(service: Service, subtests: pytest.Subtests, examples: int) -> None:
    """So many requests are made up for each operation."""
    headers = {"Authorization": f"Bearer {service.key('fuzz')}"}
    document = schemathesis.openapi.from_dict(json.loads(service.call("GET", "/openapi.json").body))
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        with subtests.test(operation=operation.label):
            _fuzz(operation, service.url, headers, examples)


def _fuzz(operation: schemathesis.APIOperation, url: str, headers: dict[str, str], examples: int) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def send(case: schemathesis.Case) -> None:
        if case.query:
            case.query.pop("follow", None)  # such an answer goes on until the job has ended
        answer = case.call(base_url=url, headers=headers, timeout=60)
        assert answer.status_code in KNOWN, (answer.status_code, answer.text, case.as_curl_command())
        assert "Traceback" not in answer.text

    send()
