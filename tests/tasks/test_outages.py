"""What a long run does when its store or its Prefect server is away for a while."""

import httpx
import pytest
from lazy import lazy

from simyard.core.errors import RequestError, StoreError

driving = lazy("simyard.flows.driving")


class Away:
    """Cannot be reached some times, and then can."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def __call__(self):
        if self.errors:
            raise self.errors.pop(0)
        return "through"


def test_it_is_tried_again_until_it_comes_through():
    said = []
    away = Away(StoreError("the bucket is away"), httpx.ConnectError("the server is away"))
    assert driving.through_outages(away, said.append, retry_s=0.01) == "through"
    assert len(said) == 2
    assert "the bucket is away" in said[0]


def test_an_outage_has_an_end():
    with pytest.raises(StoreError, match="for good"):
        driving.through_outages(Away(*[StoreError("for good")] * 9), print, outage_s=0.05, retry_s=0.02)


def test_what_no_waiting_mends_is_raised_at_once():
    away = Away(RequestError("bad"), StoreError("never reached"))
    with pytest.raises(RequestError, match="bad"):
        driving.through_outages(away, print)
    assert len(away.errors) == 1
