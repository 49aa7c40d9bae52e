"""Keeping order in a store: what goes by age, count, tags and worth, and the order in which it goes.

A document names what it rests on, by job id or by digest. So what is kept keeps all that its documents name, and theirs
in turn; ids and digests are found in the text, whatever the document. What rests on something goes before it; of a job
`job.json` goes before the rest, since with it the job ends to exist for every reader. So a kill at any moment leaves
whole jobs, and at most files without a job, which the next time finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from simyard.blocks.reference import below, open_store
from simyard.core.artifacts import CHECKPOINTS
from simyard.core.errors import RequestError, StoreError
from simyard.core.records import IdempotencyRecord, JobResult, Manifest, SpentRecord
from simyard.core.specs import JobSpec
from simyard.core.wire import Wire
from simyard.runner.rl import get_library
from simyard.store import keys
from simyard.store.keys import JobKeys, mentioned
from simyard.store.store import Entry, KeyNotFound, Store
from simyard.tasks.kinds.policy_sources import best_first, policies_of
from simyard.tasks.promotion import promotions
from simyard.tasks.shared import history, labels, usage
from simyard.tasks.shared.listing import Unreadable, read_each

GRACE = timedelta(days=1)
"""Age below which files without a job stay, whatever the rule: a submission writes its inputs before its job."""


@dataclass(frozen=True, kw_only=True)
class Rule(Wire):
    """What stays in a store."""

    days: float = 30.0
    """Age of a job since its end, in days, below which it stays."""
    newest: int = 20
    """Number of newest jobs that stay whatever their age."""
    tags: tuple[str, ...] = ("keep",)
    """Tags, one of which has a job stay as it is."""
    checkpoints: int | None = None
    """Best checkpoints of a training that stay beside its last one, once it is old; None keeps all of them."""


@dataclass(frozen=True, kw_only=True)
class Freed(Wire):
    """Something that goes."""

    what: Literal["job", "checkpoints", "asset", "leftover"]
    """`checkpoints`: those of a job that stays; `leftover`: files of a job that is deleted already."""
    id: str
    why: str
    size_bytes: int
    """On a disk a file of two names counts once."""


@dataclass(frozen=True, kw_only=True)
class Order(Wire):
    """Report on a store that was put in order."""

    store: str
    dry_run: bool
    freed: tuple[Freed, ...]
    """In the order in which it goes."""
    kept: dict[str, int]
    """Number of jobs that stay, by the reason."""
    size_bytes: int
    """Of all that goes."""

    def in_words(self) -> str:
        """Return the same for people, in a line."""
        counts = Counter(freed.what for freed in self.freed)
        what = ", ".join(f"{count} x {name}" for name, count in counts.items()) or "nothing"
        kept = ", ".join(f"{count} {why}" for why, count in sorted(self.kept.items())) or "none"
        done = "would free" if self.dry_run else "freed"
        return f"{done} {in_units(self.size_bytes)} of {self.store}: {what}; jobs that stay: {kept}"


@dataclass
class _Job:
    """A job of the store, as far as order goes."""

    files: list[Entry] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    """Ids and digests that `job.json` has."""
    stays: str = ""
    """Reason for which it stays; empty where it may go."""
    state: JobResult | None = None
    """How it ended, where it is old and has no tag that keeps it whole; None elsewhere."""


def put_in_order(
    store: Store,
    rule: Rule,
    *,
    dry_run: bool = False,
    busy: Iterable[str] = (),
    now: datetime | None = None,
) -> Order:
    """Delete what the rule lets go and nothing rests on.

    Args:
        store: The store, or that of one project.
        rule: What stays.
        dry_run: Whether nothing is deleted.
        busy: Jobs that something outside this store is about: webhooks of their end.
        now: The time that ages are reckoned from.

    Raises:
        StoreError: The store cannot be read, so nothing says what rests on what; or not written. Begin again then.
    """
    now = now or datetime.now(UTC)
    listed = {run for folder in (keys.JOBS, keys.RUNS, keys.SWEEPS) for run in store.list_dirs(folder)}
    jobs, leftovers = _read_jobs(store, now)
    _judge(store, jobs, rule, now)
    roots, open_runs = _roots(store)
    rested_on = _rested_on(jobs, roots | frozenset(busy), open_runs)
    for job_id in rested_on & jobs.keys():
        jobs[job_id].stays = jobs[job_id].stays or "rested on"
    doomed = {job_id: job for job_id, job in jobs.items() if not job.stays}
    named = rested_on | {name for job in jobs.values() if job.stays for name in job.names}

    freed: list[Freed] = []
    gone = _Deletions(store, frozenset(listed), dry_run)

    def free(what: Freed, delete: Callable[[], None]) -> None:
        if not dry_run:
            delete()
        freed.append(what)

    # Jobs, what rests on others first.
    claims = _claims(store, doomed)
    for job_id in _users_first(doomed):
        if not gone.still_free(job_id, doomed[job_id].names):
            doomed[job_id].stays = "rested on"
            named |= doomed[job_id].names
            continue
        state = doomed[job_id].state
        assert state is not None
        why = f"ended {(now - datetime.fromisoformat(state.updated_at)).days} days ago"
        row = Freed(what="job", id=job_id, why=why, size_bytes=_size(store, doomed[job_id].files))
        free(row, lambda job_id=job_id: gone.job(job_id, claims.get(job_id, [])))  # type: ignore[misc]

    # Checkpoints of jobs that stay.
    for job_id, job in jobs.items():
        if rule.checkpoints is None or not job.stays or job.state is None or job.state.kind != "train":
            continue
        thinned = _thinned(store, job_id, job, rule.checkpoints, named | gone.named)
        if thinned.files:
            why = f"neither the last nor among the {rule.checkpoints} best"
            row = Freed(what="checkpoints", id=job_id, why=why, size_bytes=_size(store, thinned.files))
            free(row, lambda thinned=thinned: thinned.delete(store))  # type: ignore[misc]

    # What jobs were given, and what a kill has left.
    for sha256, files in _unnamed_assets(store, rule, now).items():
        if sha256 not in named and gone.still_free(sha256, frozenset()):
            row = Freed(
                what="asset", id=keys.asset_id_of(sha256), why="nothing names it", size_bytes=_size(store, files)
            )
            free(row, lambda sha256=sha256: store.delete_prefix(keys.AssetKeys(sha256).prefix))  # type: ignore[misc]
    for job_id, files in leftovers.items():
        row = Freed(what="leftover", id=job_id, why="its job is deleted", size_bytes=_size(store, files))
        free(row, lambda job_id=job_id: store.delete_prefix(JobKeys(job_id).prefix))  # type: ignore[misc]
    return Order(
        store=store.url(),
        dry_run=dry_run,
        freed=tuple(freed),
        kept=dict(Counter(job.stays for job in jobs.values() if job.stays)),
        size_bytes=sum(item.size_bytes for item in freed),
    )


def orders(reference: str, rule: Rule, *, dry_run: bool = False) -> Iterator[Order]:
    """Put a store and that of each of its projects in order, one after the other.

    Args:
        reference: The store, as `absolute` returned it.
        rule: What stays.
        dry_run: Whether nothing is deleted.
    """
    site = open_store(reference)
    # The service is about to tell somebody of their end.
    busy = [entry.key.rpartition("/")[2].removesuffix(".json") for entry in site.list(keys.OUTBOX)]
    projects = [below(reference, f"{keys.PROJECTS}/{name}") for name in site.list_dirs(keys.PROJECTS)]
    for store in (site, *map(open_store, projects)):
        yield put_in_order(store, rule, dry_run=dry_run, busy=busy)


def spent_by_deleted(store: Store, job_id: str) -> float:
    """Return the GPU seconds of a job that is deleted; 0 for one that used none, or never was."""
    spent = store.get_record_or_none(keys.spent(job_id), SpentRecord)
    return spent.gpu_seconds if spent else 0.0


# --- what stays -------------------------------------------------------------------------------------------------------


def _read_jobs(store: Store, now: datetime) -> tuple[dict[str, _Job], dict[str, list[Entry]]]:
    """Return the jobs of a store, and the files of those that are deleted but for them."""
    found: dict[str, _Job] = {}
    for entry in store.list(keys.JOBS):
        found.setdefault(entry.key.split("/")[1], _Job()).files.append(entry)
    real = {job_id: job for job_id, job in found.items() if _has(job, JobKeys(job_id).job)}
    texts = _texts(store, [JobKeys(job_id).job for job_id in real])
    for job_id, job in real.items():
        job.names = mentioned(texts[JobKeys(job_id).job]) - {job_id}
    lost = {job_id: job.files for job_id, job in found.items() if job_id not in real}
    old = {job_id: files for job_id, files in lost.items() if max(file.modified for file in files) < now - GRACE}
    return dict(sorted(real.items())), old


def _judge(store: Store, jobs: dict[str, _Job], rule: Rule, now: datetime) -> None:
    """Say of each job why the rule has it stay, where it has."""
    tags = {job_id: found.tags for job_id, found in labels.read_some(store, jobs).items()}
    newest = set(sorted(jobs)[len(jobs) - min(rule.newest, len(jobs)) :])

    def judge(job_id: str) -> str:
        result = history.result_of(store, job_id) if _has(jobs[job_id], JobKeys(job_id).result) else None
        if result is None:
            return "not ended"
        if now - datetime.fromisoformat(result.updated_at) < timedelta(days=rule.days):
            return f"younger than {rule.days:g} days"
        state = history.job_status(store, job_id)
        if not isinstance(state, JobResult):  # a retry is under way, or its success was not committed
            return "not ended"
        if tagged := set(tags.get(job_id, ())) & set(rule.tags):
            return f"tagged {', '.join(sorted(tagged))}"
        jobs[job_id].state = state
        return f"of the {rule.newest} newest" if job_id in newest else ""

    for job_id, stays in zip(jobs, read_each(list(jobs), judge), strict=True):
        if stays is None or isinstance(stays, Unreadable):
            stays = "cannot be read"
        jobs[job_id].stays = stays


def _roots(store: Store) -> tuple[frozenset[str], list[str]]:
    """Return what promotions, managed runs and sweeps name, and the ids of runs and sweeps that have not ended."""
    named: set[str] = set()
    for name in promotions.names(store):
        for policy in promotions.policies(promotions.read(store, name).history):  # each could be gone back to
            named |= mentioned(str(policy.to_json()))
    entries = [entry.key for folder in (keys.RUNS, keys.SWEEPS) for entry in store.list(folder)]
    documents = [key for key in entries if key.endswith(".json") and "/events/" not in key]
    for text in _texts(store, documents).values():
        named |= mentioned(text)
    runs = {key.split("/")[1] for key in entries}
    ended = {key.split("/")[1] for key in entries if key.endswith("/result.json") and key.count("/") == 2}
    return frozenset(named), sorted(runs - ended)


def _rested_on(jobs: dict[str, _Job], roots: frozenset[str], open_runs: Sequence[str]) -> frozenset[str]:
    """Return all that jobs which stay and other documents name, and what those jobs name in turn."""
    # A run or sweep that goes on may have begun jobs that it has not noted yet: their ids have its time.
    begun = {keys.time_of(run) for run in open_runs}
    waiting = {*roots, *(job_id for job_id, job in jobs.items() if job.stays or keys.time_of(job_id) in begun)}
    named = set(roots) | {job_id for job_id in waiting if keys.time_of(job_id) in begun}
    while waiting:
        job = jobs.get(waiting.pop())
        if job is not None and (new := job.names - named):
            named |= new
            waiting |= new
    return frozenset(named)


def _unnamed_assets(store: Store, rule: Rule, now: datetime) -> dict[str, list[Entry]]:
    """Return the old assets that jobs brought with them; what was uploaded as an asset is its owner's."""
    found: dict[str, list[Entry]] = {}
    for entry in store.list(keys.ASSETS):
        found.setdefault(entry.key.split("/")[1], []).append(entry)
    before = now - max(timedelta(days=rule.days), GRACE)
    return {
        sha256: files
        for sha256, files in found.items()
        if all(file.modified < before and not file.key.endswith("/asset.json") for file in files)
    }


# --- what goes --------------------------------------------------------------------------------------------------------


def _users_first(doomed: dict[str, _Job]) -> Iterator[str]:
    """Return jobs that go, each before those that it rests on."""
    order: TopologicalSorter[str] = TopologicalSorter({job_id: () for job_id in sorted(doomed, reverse=True)})
    for job_id, job in doomed.items():
        for used in job.names & doomed.keys():
            order.add(used, job_id)
    try:
        return iter(list(order.static_order()))
    except CycleError:  # names and descriptions may have any ids
        return iter(sorted(doomed, reverse=True))


@dataclass
class _Deletions:
    """Deletes jobs, as long as nothing that came since the plan rests on them."""

    store: Store
    known: frozenset[str]
    """Jobs, runs and sweeps that the plan knows."""
    dry_run: bool
    named: set[str] = field(default_factory=set)
    """Names in what came since, and in jobs that stay for its sake."""

    def still_free(self, name: str, names: frozenset[str]) -> bool:
        """Look at what came since, and return whether none of it names a job or a digest."""
        if not self.dry_run:
            for folder, document in ((keys.JOBS, "job"), (keys.RUNS, "run"), (keys.SWEEPS, "sweep")):
                new = [own for own in self.store.list_dirs(folder) if own not in self.known]
                self.known |= set(new)
                with suppress(KeyNotFound):
                    for text in _texts(self.store, [f"{folder}/{own}/{document}.json" for own in new]).values():
                        self.named |= mentioned(text)
        if name in self.named:
            self.named |= names
        return name not in self.named

    def job(self, job_id: str, claims: Sequence[str]) -> None:
        """Delete a job: the keys that stand for it, then its spec, then the rest, which nothing shows by then."""
        job = JobKeys(job_id)
        spent = usage.gpu_seconds(history.load_spec(self.store, job_id), self.store)
        if spent:  # budgets go on counting it
            self.store.put_record(keys.spent(job_id), SpentRecord(job_id=job_id, gpu_seconds=spent))
        for claim in claims:  # else the same request would be this job anew, among what is left of it
            self.store.delete(claim)
        self.store.delete(job.job)
        self.store.delete(keys.labels(job_id))
        self.store.delete_prefix(job.prefix)


@dataclass
class _Thinning:
    """Checkpoints of a job that go, and the documents that no longer name them."""

    files: list[Entry] = field(default_factory=list)
    documents: list[tuple[str, object]] = field(default_factory=list)
    """Key and new content of each, in the order of writing."""

    def delete(self, store: Store) -> None:
        """Have nothing name them, then delete them."""
        for key, content in self.documents:
            store.put_json(key, content)
        for file in self.files:
            store.delete(file.key)


def _thinned(store: Store, job_id: str, job: _Job, best: int, named: set[str] | frozenset[str]) -> _Thinning:
    """Return the checkpoints of a training that go: all but the last, the best, and those that something names."""
    assert job.state is not None
    spec, own = history.load_spec(store, job_id), JobKeys(job_id)
    kept = _kept_checkpoints(store, spec, best)
    if kept is None:
        return _Thinning()
    past = history.attempts(store, job_id)
    stays = {
        record.sha256
        for attempt in past
        for record in attempt.checkpoints
        if record.iteration is None or record.sha256 in kept or record.sha256 in named
    }

    # What goes on naming its files: the result, the manifest of a success, the index of each attempt.
    artifacts = tuple(one for one in job.state.artifacts if one.kind != CHECKPOINTS.kind or one.sha256 in stays)
    thinned = _Thinning()
    if artifacts != job.state.artifacts:
        thinned.documents.append((own.result, replace(job.state, artifacts=artifacts).to_json()))
        if manifest := store.get_record_or_none(own.manifest, Manifest):
            thinned.documents.append((own.manifest, replace(manifest, artifacts=artifacts).to_json()))
    indexed: set[str] = {own.artifact(one.name) for one in artifacts}
    for attempt in past:
        left = [record for record in attempt.checkpoints if record.sha256 in stays]
        indexed |= {record.key for record in left} | {record.state.key for record in left if record.state}
        if left != attempt.checkpoints:
            thinned.documents.append((attempt.keys.checkpoints, [record.to_json() for record in left]))

    # Files that nothing of it names then, also those that a killed deletion has left.
    folders = (own.artifact(CHECKPOINTS.name), *(a.keys.file(CHECKPOINTS.name) for a in past))
    folders += tuple(f"{attempt.keys.states}/" for attempt in past)
    thinned.files = [file for file in job.files if file.key.startswith(folders) and file.key not in indexed]
    return thinned


def _kept_checkpoints(store: Store, spec: JobSpec, best: int) -> set[str] | None:
    """Return the digests of a training's last and best checkpoints; None where it is left as it is.

    A training in stages begins some of them with earlier checkpoints, and is left too.
    """
    if spec.stages is not None:
        return None
    policies = policies_of(history.resume_points(store, spec.job_id))
    if not policies:
        return None
    try:
        ranked = best_first(policies, spec, store, get_library(spec.library))
    except RequestError:  # it has logged no return to tell them apart by
        return None
    return {policy.checkpoint.sha256 for policy in (*ranked[:best], policies[-1])}


# --- reading ----------------------------------------------------------------------------------------------------------


def _texts(store: Store, documents: Sequence[str]) -> dict[str, str]:
    """Return the text of documents, also of those that are no documents; empty for those that are not there any more.

    Raises:
        StoreError: One cannot be read, so nothing says what it rests on.
    """

    def read(key: str) -> str:
        with suppress(KeyNotFound):
            return store.get_bytes(key).decode(errors="replace")
        return ""

    texts: dict[str, str] = {}
    for key, text in zip(documents, read_each(documents, read), strict=True):
        if not isinstance(text, str):
            raise StoreError(
                f"{store.url(key)!r} cannot be read: {text.error if text else 'it is gone'}.",
                code="bad_json",
                advice="Nothing is deleted while it may rest on something: restore it, or delete it.",
            )
        texts[key] = text
    return texts


def _claims(store: Store, doomed: dict[str, _Job]) -> dict[str, list[str]]:
    """Return the records of the idempotency keys that stand for jobs, by job."""
    found: dict[str, list[str]] = {}
    if doomed:
        listed = [entry.key for entry in store.list(keys.IDEMPOTENCY)]
        for key, record in zip(
            listed, read_each(listed, lambda key: store.get_record(key, IdempotencyRecord)), strict=True
        ):
            if isinstance(record, IdempotencyRecord):
                found.setdefault(record.id, []).append(key)
    return found


def _has(job: _Job, key: str) -> bool:
    return any(entry.key == key for entry in job.files)


def _size(store: Store, files: Iterable[Entry]) -> int:
    """Return the bytes that are free once files are deleted."""
    if (folder := store.folder) is None:
        return sum(file.size_bytes for file in files)
    sizes = {}
    for file in files:
        with suppress(OSError):
            known = (folder / file.key).stat()
            sizes[known.st_dev, known.st_ino] = known.st_size
    return sum(sizes.values())


def in_units(size_bytes: int) -> str:
    """Return a size for people."""
    unit, divisor = next(((u, d) for u, d in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size_bytes >= d), ("B", 1))
    return f"{size_bytes / divisor:.1f} {unit}" if divisor > 1 else f"{size_bytes} B"
