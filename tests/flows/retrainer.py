"""Runs retrainings one after another, in one simulator: a request a line in, how its flow run ended a line out."""

import json
import sys

from simyard.core.specs import Bounds
from simyard.flows import stages
from simyard.flows.retrain import retrain
from simyard.requests.config import check_config
from simyard.requests.jobs import RetrainRequest
from simyard.requests.settings import MachineSettings
from simyard.tasks.sessions.pool import Sessions

with Sessions(MachineSettings.from_env(), Bounds()) as sessions, stages.inline(stages.Inline(sessions=sessions)):
    for line in sys.stdin:
        order = json.loads(line)
        request = check_config(order["request"], RetrainRequest)
        state = retrain(request, order["store"], None, order["job_id"], return_state=True)
        print(json.dumps({"state": state.type.value, "message": state.message}), flush=True)
