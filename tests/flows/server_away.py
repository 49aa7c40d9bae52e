"""Progress that Prefect's server does not take: prints what was passed on, and whether the artifact was there.

python server_away.py
"""

import json
import threading
from uuid import uuid4

from simyard.flows.stages import ProgressArtifact
from simyard.runner.progress import JobProgress

passed = []
shown = ProgressArtifact("job-x", lambda progress: passed.append(progress.done))
was_there = shown.artifact is not None
shown(JobProgress(stage="training", done=1, total=2))
shown.artifact = uuid4()  # as of an attempt that began before
shown(JobProgress(stage="training", done=2, total=2))
for thread in threading.enumerate():
    if thread.name == "progress":
        thread.join()
print(json.dumps({"passed": passed, "artifact": was_there}))
