"""Workload processes: started early, checked before they run, moved to NVIDIA's asset store where a task needs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from simyard.runner.errors import RequestError
from simyard.runner.packages import InstalledPackage
from simyard.runner.spec import Facts, JobSpec
from simyard.runner.supervise import Workload
from simyard.site import Site

CHECK_TIMEOUT_S = 600.0


def start_workload(site: Site, simulator: str, library: str, *, embedded_assets: bool = True) -> Workload:
    """Start a workload process that imports the simulator and waits for a job.

    Args:
        site: This machine.
        simulator: The adapter's name.
        library: What to import ahead.
        embedded_assets: Whether the asset root of installed packages may stand in for NVIDIA's store.
    """
    folder = site.home / "work" / f"workload-{time.time_ns()}"
    env = site.workload_env(embedded_assets=embedded_assets)
    return Workload.start(site.python, folder, simulator=simulator, library=library, env=env)


def check(
    workload: Workload, site: Site, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]
) -> tuple[Workload, Facts]:
    """Have a workload check a job; return the process to run it in, which may be another.

    Isaac Lab fixes its asset root while it is imported. A task whose assets are not among those of installed packages
    gets a new process that looks for them in NVIDIA's store, unless the site set a root of its own.

    Args:
        workload: The process that waits.
        site: This machine.
        job: The job.
        overlay: Folder of the job's own packages.
        files: Where the job's inputs lie here, by digest.

    Raises:
        RequestError: If the simulator's environment refuses the job.
        WorkloadError: If the process dies or is silent.
    """
    timeout_s = min(CHECK_TIMEOUT_S, job.limits.wall_s)
    try:
        return workload, workload.check(job, overlay, files, timeout_s)
    except RequestError as error:
        if error.failure.code != "assets_missing" or site.has_own_assets:
            raise
    workload.end(0.0)
    fetching = start_workload(site, job.simulator, job.library, embedded_assets=False)
    try:
        return fetching, fetching.check(job, overlay, files, timeout_s)
    except BaseException:
        fetching.end(0.0)
        raise


def registering_module(package: InstalledPackage) -> str:
    """Return the module whose import registers the tasks of a package without an `isaaclab.tasks` entry point."""
    if len(package.modules) == 1:
        return package.modules[0]
    raise RequestError(
        f"Package {package.name!r} does not say which of its modules registers the task.",
        code="package_entry_point",
        advice="Add an `isaaclab.tasks` entry point, or set customEnvironmentCallback to one of: "
        + ", ".join(package.modules),
    )
