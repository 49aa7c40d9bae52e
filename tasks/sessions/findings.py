"""Findings of earlier checks about the simulator's environment: they refuse a bad job before anything is started.

They are kept by interpreter, device and environment variables, with the status of every file that they came from: all
modules that were imported, their folders, and what says which distributions are installed. They count while all of
them are unchanged, and refuse only: a job that they do not refuse is checked by the simulator all the same.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.files import read_json, write_json
from simyard.core.specs import JobSpec
from simyard.requests.settings import Site
from simyard.runner.loaded_code import unchanged
from simyard.runner.simulators import ADAPTERS
from simyard.runner.workload import Workload
from simyard.tasks.sessions.fingerprint import needs

ANSWER_S = 30.0
"""Seconds for a process that has just checked a job to return its findings."""


class Findings:
    """Findings about the environment of one job."""

    def __init__(self, site: Site, job: JobSpec) -> None:
        """Read the kept findings, if there are any."""
        self._job = job
        own = needs(site, job, "")
        self._path = site.home / "cache" / "findings" / f"{hashlib.sha256(json.dumps(own).encode()).hexdigest()}.json"
        self._kept: dict[str, Any] = {"jobs": [], "findings": {}, "evidence": {}}
        with suppress(OSError, ValueError, KeyError, TypeError):  # a broken file is as none
            read = read_json(self._path)
            self._kept = {name: read[name] for name in self._kept}

    def refuse(self) -> None:
        """Refuse the job where that is certain; one that brings its own code is left to the simulator.

        Raises:
            RequestError: As the simulator's environment would.
        """
        if self._brings_code() or not self._kept["findings"]:
            return
        try:
            ADAPTERS[self._job.simulator].refuse_known(self._job, self._kept["findings"])
        except RequestError:
            if unchanged(self._kept["evidence"]):
                raise

    def learn(self, workload: Workload) -> None:
        """Keep the findings of a process that has just checked the job, unless those of a like job are kept."""
        what = f"{self._job.task} {self._job.library}"
        if self._brings_code() or not workload.is_waiting:
            return
        kept = self._kept if unchanged(self._kept["evidence"]) else {"jobs": [], "findings": {}, "evidence": {}}
        if what in kept["jobs"]:
            return
        with suppress(WorkloadError, OSError):  # the next check finds it out again
            findings, evidence = workload.findings(ANSWER_S)
            for name, found in findings.items():
                kept["findings"][name] = kept["findings"].get(name, {}) | found
            kept |= {"jobs": sorted({*kept["jobs"], what}), "evidence": kept["evidence"] | evidence}
            write_json(self._path, kept)

    def _brings_code(self) -> bool:
        return bool(self._job.packages or self._job.import_callback)
