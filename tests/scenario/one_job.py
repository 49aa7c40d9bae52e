"""Play a job in a process of its own: python -m scenario.one_job HOME STORE SCENARIO; prints which process it had."""

import json
import sys
from pathlib import Path

from scenario import play

from simyard.core.specs import ONE_JOB
from simyard.requests.settings import MachineSettings
from simyard.tasks.sessions.pool import Sessions

if __name__ == "__main__":
    home, store, scenario = sys.argv[1:]
    player = play.Player(MachineSettings(home=Path(home), store=store, python=str(play.PYTHON)), None)
    with Sessions(player.site, ONE_JOB) as sessions:
        left = player.play(scenario, sessions=sessions, retries=0, iterations=8)
    print(json.dumps({"pid": left.pid, "status": left.result["status"]}))
