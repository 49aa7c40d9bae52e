"""What the public client of the same contract raises, unmodified, where nothing runs: one error for each cause."""

from collections.abc import Callable

import hardsim as hs
import pytest
from serving import Service

ASKED = {"robot": "s3://robots/no-such-robot.urdf", "scene": "ground", "num_envs": 1, "steps": 1}


@pytest.fixture
def robot(tmp_path) -> str:
    path = tmp_path / "robot.urdf"
    path.write_text('<robot name="r"><link name="base"/></robot>')
    return str(path)


def test_a_key_that_lacks_the_scope(service: Service) -> None:
    with pytest.raises(hs.HardsimAuthenticationError) as error:
        hs.HardsimClient(service.key("errors", "assets"), service.url).list_training_runs()
    assert error.value.status_code == 403


def test_a_budget_that_is_spent(service: Service) -> None:
    client = hs.HardsimClient(service.key("errors", max_credits=0.0), service.url)
    with pytest.raises(hs.HardsimRequestError) as error:
        client.run(**ASKED)
    assert error.value.status_code == 402


def test_too_many_jobs_at_once(service: Service, robot: str) -> None:
    client = hs.HardsimClient(service.key("errors", max_active_jobs=1), service.url, max_retries=0)
    asked = {**ASKED, "robot": client.upload_input(robot)}
    job = client.run(**asked)
    with pytest.raises(hs.HardsimRateLimitError):
        client.run(**asked)
    with pytest.raises(hs.HardsimJobTimeoutError):
        job.wait(poll_interval_s=0.1, timeout_s=0.3)
    job.cancel()
    assert client.run(**asked).job_id != job.job_id


def test_a_service_whose_prefect_is_away(make_site: Callable[..., Service], dead_port: int, robot: str) -> None:
    site = make_site(PREFECT_API_URL=f"http://127.0.0.1:{dead_port}/api", PREFECT_CLIENT_MAX_RETRIES="0")
    site.start()
    client = hs.HardsimClient(site.key("errors"), site.url, max_retries=0)
    with pytest.raises(hs.HardsimServerError) as error:
        client.run(**{**ASKED, "robot": client.upload_input(robot)})
    assert error.value.status_code == 503


def test_nobody_there(dead_port: int) -> None:
    with pytest.raises(hs.HardsimTransportError):
        hs.HardsimClient("sy_live_x", f"http://127.0.0.1:{dead_port}", max_retries=0).list_input_assets()
