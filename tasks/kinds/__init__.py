"""The kinds of jobs. To add one: write its file, name it here; its work is an adapter's in `runner/`."""

from simyard.core.specs import JobSpec
from simyard.tasks.kinds.base import Kind
from simyard.tasks.kinds.evaluate import EvaluationKind
from simyard.tasks.kinds.export import ExportKind
from simyard.tasks.kinds.rollout import RolloutKind
from simyard.tasks.kinds.train import TrainingKind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (TrainingKind(), EvaluationKind(), ExportKind(), RolloutKind())}


def kind_of(spec: JobSpec) -> Kind:
    """Return a job's kind."""
    return KINDS[spec.kind]


__all__ = ["KINDS", "Kind", "kind_of"]
