"""Runs retrainings one after another, in one simulator: a request a line in, how its flow run ended a line out."""

import json
import sys

from simyard.config import check_config
from simyard.flows import stages
from simyard.flows.retrain import retrain
from simyard.retraining import RetrainRequest
from simyard.runner.spec import Bounds
from simyard.site import Site
from simyard.tasks.sessions import Sessions

with Sessions(Site.from_env(), Bounds()) as sessions, stages.inline(stages.Inline(sessions=sessions)):
    for line in sys.stdin:
        order = json.loads(line)
        request = check_config(order["request"], RetrainRequest)
        state = retrain(request, order["store"], None, order["job_id"], return_state=True)
        print(json.dumps({"state": state.type.value, "message": state.message}), flush=True)
