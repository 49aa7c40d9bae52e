"""The artifacts of jobs, one row each: name, kind, media type, the jobs that promise it, and where it is shown.

To add one, write its row here, and have the workload write the file below its `output/`, or `persist` make it. A file
without a row is an artifact too, of the kind `provenance`.
"""

from __future__ import annotations

import mimetypes
import re
from dataclasses import dataclass
from typing import Literal

TRAIN, EVALUATE, EXPORT, ROLL_OUT = "train", "evaluate", "export", "rollout"
EVERY_JOB = (TRAIN, EVALUATE, EXPORT, ROLL_OUT)
POLICY_JOBS = (TRAIN, EVALUATE, EXPORT)

TEXT, MARKDOWN, CSV = "text/plain", "text/markdown", "text/csv"
JSON, YAML, BYTES, XML = "application/json", "application/yaml", "application/octet-stream", "application/xml"
PNG, MP4 = "image/png", "video/mp4"

INLINE = (PNG, MP4)
"""Media types that a browser may show; it saves any other."""
OTHER = "provenance"
"""Kind of a file without a row."""

Page = Literal["link", "video", "log"]
"""Display of an artifact on a job's page: each has its link; a video plays there too, and a log has its last lines."""


TXT_LOGS = (TRAIN, EVALUATE)
"""Kinds of jobs whose logs are kept as `.txt` too, `runner.txt` say: some asset managers show such files alone."""


@dataclass(frozen=True)
class ArtifactType:
    """An artifact that jobs leave, or a folder of them."""

    name: str
    """Path below the job's `artifacts/`; that of a folder ends in a slash."""
    kind: str
    """Its `kind` in the manifest."""
    media_type: str
    """Its `Content-Type`."""
    promised_by: tuple[str, ...] = ()
    """Kinds of jobs that do not succeed without it; a promise of some jobs only is in `tasks/kinds/`."""
    made: bool = False
    """Whether `persist` makes it; a file of that name that an attempt left is provenance."""
    label: str | None = None
    """Label in the list of files that a command prints when a job has ended; None for one that is not listed."""
    page: Page = "link"

    @property
    def is_folder(self) -> bool:
        """Return whether it stands for all files below a folder."""
        return self.name.endswith("/")

    def covers(self, name: str) -> bool:
        """Return whether a file is this artifact, or one of this folder."""
        return name.startswith(self.name) if self.is_folder else name == self.name


CURVES = ArtifactType("curves.png", "plot", PNG, made=True, label="curves")
RETURNS = ArtifactType("returns.png", "plot", PNG, made=True, label="returns")
ACROSS_PLOT = ArtifactType("across.png", "plot", PNG, made=True, label="engines")
ROBUSTNESS_PLOT = ArtifactType("robustness.png", "plot", PNG, made=True, label="robustness")
POLICY_ONNX = ArtifactType("policy.onnx", "policy", BYTES, (EXPORT,), label="policy")
POLICY_TORCHSCRIPT = ArtifactType("policy.pt", "policy", BYTES, (EXPORT,))
CONTRACT = ArtifactType("policy_contract.json", "contract", JSON, (EXPORT,), label="contract")
CHECKLIST = ArtifactType("checklist.json", "checklist", JSON, (EXPORT,), label="checklist")
GOLDEN = ArtifactType("golden.json", OTHER, JSON)
ROBOT_MODEL = ArtifactType("robot.xml", OTHER, XML)
ROLLOUT = ArtifactType("rollout.zarr", "rollout", BYTES, (ROLL_OUT,), label="rollout")
RENDER = ArtifactType("render.mp4", "video", MP4, label="render", page="video")
SUMMARY = ArtifactType("summary.json", "summary", JSON, (EVALUATE, EXPORT, ROLL_OUT))
EPISODES = ArtifactType("episodes.csv", "episodes", CSV, (EVALUATE,))
ACROSS = ArtifactType("across.json", "across", JSON)
PAIRS = ArtifactType("across.csv", "episodes", CSV)
DIVERGENCE = ArtifactType("divergence.csv", "divergence", CSV)
ROBUSTNESS = ArtifactType("robustness.json", "robustness", JSON)
ARM_EPISODES = ArtifactType("robustness.csv", "episodes", CSV)
METRICS = ArtifactType("metrics.csv", "metrics", CSV, (EVALUATE,))
METRICS_TIME = ArtifactType("metrics_time.csv", "metrics", CSV, made=True)
METRICS_SUMMARY = ArtifactType("metrics.json", "metrics", JSON, made=True)
STAGES = ArtifactType("stages.json", "stages", JSON)
EVALUATIONS = ArtifactType("evaluations.json", "evaluations", JSON, made=True, label="evaluations")
TELEMETRY = ArtifactType("telemetry.csv", "telemetry", CSV)
DIAGNOSTICS = ArtifactType("diagnostics.json", "diagnostics", JSON)
STDOUT = ArtifactType("command.stdout.log", "log", TEXT, page="log")
USER_LOG = ArtifactType("user_job.log", "log", TEXT, (ROLL_OUT,), page="log")
STDERR = ArtifactType("command.stderr.log", "log", TEXT, page="log")
RUNNER_LOG = ArtifactType("runner.log", "log", TEXT)
STAGING_LOG = ArtifactType("asset_staging.log", "log", TEXT)
ENV_PARAMS = ArtifactType("params/env.yaml", OTHER, YAML, POLICY_JOBS)
AGENT_PARAMS = ArtifactType("params/agent.yaml", OTHER, YAML, POLICY_JOBS)
VERSIONS = ArtifactType("versions.json", OTHER, JSON, EVERY_JOB)
WORLD = ArtifactType("world.json", OTHER, JSON)
JOB = ArtifactType("job.json", OTHER, JSON, made=True)
TRAINING_CONFIG = ArtifactType("training-config.json", OTHER, JSON, made=True)
EVALUATION_CONFIG = ArtifactType("evaluation-config.json", OTHER, JSON, made=True)
EXPORT_CONFIG = ArtifactType("export-config.json", OTHER, JSON, made=True)
SUBMISSION = ArtifactType("submission.json", OTHER, JSON, made=True)
REPORT = ArtifactType("report.md", "report", MARKDOWN, made=True, label="report")
CHECKPOINTS = ArtifactType("checkpoints/", "checkpoint", BYTES, made=True, label="checkpoints")
VIDEOS = ArtifactType("videos/", "video", MP4, label="videos", page="video")
EVENTS = ArtifactType("events/", "events", BYTES)
NORMALIZER = ArtifactType("normalizer/", "normalizer", BYTES)

ARTIFACTS = [row for row in list(globals().values()) if isinstance(row, ArtifactType)]
"""Every row above, in order: that in which commands list them, and a page its logs."""

_EARLIER = re.compile(r"^attempts/\d+/")
"""Folder of the files of earlier attempts among the artifacts, under their own names."""


def find(name: str) -> ArtifactType | None:
    """Return the row of an artifact; None for one without a row."""
    own = _EARLIER.sub("", name)
    return next((row for row in ARTIFACTS if row.covers(own)), None)


def kind_of_file(name: str) -> str:
    """Return the kind of a file that an attempt left."""
    row = find(name)
    return OTHER if row is None or row.made else row.kind


def media_type_of(name: str) -> str:
    """Return the media type of an artifact, which of one without a row is guessed by its name."""
    row = find(name)
    return row.media_type if row else mimetypes.guess_type(name)[0] or TEXT


def promised(kind: str) -> tuple[str, ...]:
    """Return the names of the artifacts without which no job of a kind succeeds."""
    return tuple(row.name for row in ARTIFACTS if kind in row.promised_by)


def shown_as(page: Page) -> list[ArtifactType]:
    """Return the rows that a job's page shows in one way."""
    return [row for row in ARTIFACTS if row.page == page]
