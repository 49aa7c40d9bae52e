"""Jobs as they lie in a store when they have ended, written down without running them."""

import hashlib
import json
import random
from typing import Any

import records

from simyard.core.artifacts import kind_of_file
from simyard.core.errors import Failure
from simyard.core.records import ArtifactEntry
from simyard.core.specs import Facts, JobSpec
from simyard.runner.evaluation.summary import spread, successes
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store

TERMS = ("alive", "pole_pos", "cart_vel")


def leave(
    store: Store,
    spec: JobSpec,
    files: dict[str, bytes],
    *,
    failure: Failure | None = None,
    facts: Facts | None = None,
    **changes: Any,
) -> str:
    """Write down a job that has ended, and what it left."""
    job = JobKeys(spec.job_id)
    entries = []
    for name, data in sorted(files.items()):
        store.put_bytes(job.artifact(name), data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append(ArtifactEntry(name=name, kind=kind_of_file(name), size_bytes=len(data), sha256=digest))
    known = (facts or Facts(**records.facts() | {"overrides": (), "notes": ()})).to_json()
    store.put_json(job.attempt(1).status, records.status(status="succeeded", facts=known))
    store.put_json(job.attempt(1).outcome, records.outcome(failure, facts=known))
    result = records.result(spec.job_id, failure, kind=spec.kind, store=store.url(job.prefix))
    result |= {"artifacts": [entry.to_json() for entry in entries], "timings": {"total_s": 75.2}} | changes
    store.put_json(job.result, result)
    if failure is None:
        store.put_json(job.manifest, {"schema_version": 1, "job_id": spec.job_id, "kind": spec.kind,
                                      "created_at": result["updated_at"], "artifacts": []})  # fmt: skip
    store.put_record(job.job, spec)
    return spec.job_id


def spec(kind: str = "train", **changes: Any) -> JobSpec:
    fields = {
        "job_id": keys.new_job_id(), "kind": kind, "name": kind, "simulator": "isaaclab", "task": "Isaac-Cartpole",
        "library": "rsl_rl", "num_envs": 16, "seed": 1, "created_at": "2026-01-01T10:00:00+00:00", "gpus": 0,
    }  # fmt: skip
    return JobSpec(**fields | changes)


def metrics(iterations: int, slope: float = 1.0, seed: int = 0, losses: int = 6) -> bytes:
    """Return a metrics.csv as rsl_rl leaves it, with one peak at three quarters of it."""
    noise = random.Random(seed)
    tags = ["Train/mean_reward", "Train/mean_episode_length", *(f"Episode_Reward/{term}" for term in TERMS)]
    tags += [f"Loss/{number}" for number in range(losses)]
    lines = [",".join(["step", "wall_time", *tags])]
    for step in range(iterations):
        base = slope * step / iterations + noise.gauss(0, 0.05)
        values = [base + (9.0 if step == iterations * 3 // 4 else 0.0), 300 * base]
        values += [base * number + noise.gauss(0, 0.01) for number in range(len(tags) - 2)]
        lines.append(",".join([str(step), f"{step}.0", *(f"{value:.6f}" for value in values)]))
    return ("\n".join(lines) + "\n").encode()


def training(store: Store, iterations: int = 50, slope: float = 1.0, losses: int = 6, **changes: Any) -> str:
    made = spec(max_iterations=iterations, **changes)
    files = {"metrics.csv": metrics(iterations, slope, made.seed, losses)}
    return leave(store, made, files, done=iterations, total=iterations, reward=slope)


def evaluation(
    store: Store, shift: float = 0.0, episodes: int = 24, film: bytes | None = None, seed: int = 7, **changes: Any
) -> str:
    """Write down an evaluation whose returns are those of every other with its seed, and a shift."""
    made = spec("evaluate", seed=seed, num_envs=episodes, **changes)
    noise, own = random.Random(seed), random.Random(shift)
    rows = [["checkpoint", "iteration", "episode", "env", "seed", "return", "length", "ended", "term", "success",
             "reward.alive"]]  # fmt: skip
    returns, won = [], []
    for env in range(episodes):
        base = noise.gauss(3.0, 1.0)
        returns.append(base + shift + own.gauss(0, 0.01))
        won.append(base + shift > 3.0)
        rows.append(["model_9.pt", "10", str(env), str(env), str(seed), repr(returns[-1]), "300", "truncated",
                     "time_out", str(int(won[-1])), repr(returns[-1] / 2)])  # fmt: skip
    own.shuffle(body := rows[1:])
    summary = {
        "episodes": episodes, "return": spread(returns), "length": spread([300.0] * episodes),
        "success": successes(won, "time_out"), "ended": {"terminated": 0, "truncated": episodes, "terms": {}},
        "reward_terms": {"alive": sum(returns) / episodes / 2}, "sweep": None, "across": None,
        "checkpoint": {"name": "model_9.pt", "sha256": "0" * 64, "iteration": 10},
        "videos": [{"file": "videos/episode-0001.mp4", "why": ["best"], "return": max(returns)}] if film else [],
        "video_problem": None, "environment_steps_per_second": 1234.5,
    }  # fmt: skip
    files = {"episodes.csv": "\n".join(",".join(row) for row in [rows[0], *body]).encode() + b"\n"}
    files["summary.json"] = json.dumps(summary).encode()
    if film:
        files["videos/episode-0001.mp4"] = film
    return leave(store, made, files, summary=summary, reward=summary["return"]["mean"], unit="episode",
                 done=episodes, total=episodes)  # fmt: skip
