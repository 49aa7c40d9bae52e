"""Whatever is sent to any operation of the OpenAPI document, the service answers as that says, and never 5xx."""

import itertools
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import records
import schemathesis
from helpers import HANG_S, wait_until
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import FlakyStrategyDefinition
from scenario import play
from serving import Service
from test_jobs_api import ROLLOUT, RUN, TRAINING

KNOWN = (200, 201, 202, 204, 206, 400, 401, 402, 403, 404, 405, 409, 413, 415, 416, 422, 429)


@pytest.fixture(scope="module")
def service(make_site: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service whose simulator has one task, and says so at once: the real one reads its own for half a minute."""
    tasks = {"SCENARIO_TASKS": json.dumps([records.task("Isaac-Ant")])}
    asked = {"SCENARIO_ASKED": str(tmp_path_factory.mktemp("schema") / "asked")}
    made = make_site(**play.ENVIRONMENT, **tasks, **asked)
    made.start()
    key = made.key("first")
    wait_until(lambda: made.call("GET", "/v1/tasks", key=key).status == 200, HANG_S, "the reading of the tasks")
    return made


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
        answer = case.call(base_url=url, headers=headers, timeout=HANG_S)
        assert answer.status_code in KNOWN, (answer.status_code, answer.text, case.as_curl_command())
        assert "Traceback" not in answer.text

    send()


MADE = {
    "/v0/jobs": ("job_id", "/job_id"),
    "/v1/training-runs": ("run_id", "/run_id"),
    "/v1/sweeps": ("sweep_id", "/sweep_id"),
    "/v0/assets": ("asset_id", "/assets/0/asset_id"),
}
"""Operations that give an id, its name in the paths of others, and where it stands in the answer."""


@pytest.mark.long
def test_ten_thousand_requests_that_follow_from_each_other(service: Service) -> None:
    """What was made is shown, followed, paused, canceled, looked into, in any order and more than once."""
    headers = {"Authorization": f"Bearer {service.key('stateful')}"}
    document = json.loads(service.call("GET", "/openapi.json").body)
    for path, (name, place) in MADE.items():
        links = {
            f"{method} {other}": {
                "operationRef": f"#/paths/{other.replace('/', '~1')}/{method}",
                "parameters": {name: f"$response.body#{place}"},
            }
            for other, operations in document["paths"].items()
            if f"{{{name}}}" in other
            for method in operations
        }
        assert links
        method, status = ("get", "200") if "assets" in path else ("post", "201")
        document["paths"][path][method]["responses"][status]["links"] = links
    machine = schemathesis.openapi.from_dict(document).as_state_machine()
    answers: list[int] = []
    wrong: list[tuple[int, str, str]] = []

    class Requests(machine):  # type: ignore[misc, valid-type]
        def before_call(self, case: schemathesis.Case) -> None:
            if case.query:
                case.query.pop("follow", None)  # such an answer goes on until the job has ended
            case.headers.update(headers)  # over one that was made up
            # Made up bodies are seldom good; and of what was never made nothing follows.
            whole = {"POST /v0/jobs": [ROLLOUT, TRAINING], "POST /v1/training-runs": [RUN]}
            if case.operation.label in whole and len(answers) % 3:
                case.body = random.Random(len(answers)).choice(whole[case.operation.label])

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"base_url": service.url, "timeout": HANG_S}

        def validate_response(self, response: Any, case: schemathesis.Case, **_: Any) -> None:
            answers.append(response.status_code)
            if response.status_code not in KNOWN or "Traceback" in response.text:
                wrong.append((response.status_code, response.text, case.as_curl_command()))

    # What there is to follow depends on what the service was sent before, not on this story alone: hypothesis calls
    # that flaky where it comes by the same way once more, and then another story begins.
    for number in itertools.count():
        with suppress(FlakyStrategyDefinition):
            seed(number)(Requests).run(
                settings=settings(
                    max_examples=70, stateful_step_count=50, deadline=None, database=None,
                    phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
                )
            )  # fmt: skip
        assert not wrong
        assert number < 100, f"{len(answers)} answers: the stories end too early"
        if len(answers) > 10_000:
            return
