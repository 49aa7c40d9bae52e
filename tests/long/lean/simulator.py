"""A simulator that costs next to nothing, under the real runner: it sleeps, counts, saves and prints.

It stands where Isaac Lab's adapter stands, as that of tests/scenario does; nothing but the standard library is
imported. What it has done it also writes to a journal, which no part of simyard knows (`LEAN_JOURNAL`): so somebody can
tell afterwards what was there to be lost. A job's description says how long a step takes, in seconds.
"""

import json
import os
import runpy
import struct
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

from simyard.core.files import replacing, write_json
from simyard.core.specs import Facts
from simyard.runner import rl
from simyard.runner.adapter import ADAPTERS, Adapter
from simyard.runner.exporting import STEPS
from simyard.runner.progress import say_count

SAVE_INTERVAL = 2
EPISODES_SEED = 7


class Lean(Adapter):
    """Does each kind of job by the clock."""

    def check(self, job, overlay, files):
        return Facts(
            simulator=job.simulator, version="1", flavor="api", device="cpu", rollout=1, overrides=job.overrides,
            versions={"python": sys.version.split()[0]},
        )  # fmt: skip

    def run(self, attempt, facts, paths):
        journal("began", attempt, attempt.start_iteration)
        began = time.monotonic()
        kind = attempt.job.kind
        {"train": train, "evaluate": evaluate, "export": export, "rollout": roll_out}[kind](attempt, paths)
        names = {"train": "Training", "evaluate": "Evaluation", "export": "Export", "rollout": "Rollout"}
        print(f"{names[kind]} time: {time.monotonic() - began:.2f} seconds")


def journal(what, attempt, number):
    """Add a line to the journal: one write, so that nobody's lines mix."""
    line = {"at": time.time(), "what": what, "job": attempt.job.job_id, "attempt": attempt.number, "number": number}
    descriptor = os.open(os.environ["LEAN_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(line | {"pid": os.getpid()}).encode() + b"\n")
    finally:
        os.close(descriptor)


def pause(job):
    time.sleep(float(job.description or 0.1))


def train(attempt, paths):
    """Count: each iteration adds one to what the policy has seen."""
    job, seen, start = attempt.job, 0, 0
    if attempt.resume:
        with zipfile.ZipFile(paths.inputs / attempt.resume.checkpoint.name) as archive:
            state = json.loads(archive.read("state.json"))
        seen, start = state["seen"], state["iteration"]
    folder = Path("logs", "lean", "lean", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))
    (folder / "params").mkdir(parents=True)
    write_params(folder / "params")
    with (folder / f"events.out.tfevents.{int(time.time())}.lean").open("wb") as events:
        for index in range(start, job.last_iteration):
            pause(job)
            seen += 1
            events.write(scalar("lean/return", index, 10.0 * index))
            events.flush()
            print(f"iteration {index + 1} of {job.last_iteration}, return {10.0 * index:.1f}")
            if index % SAVE_INTERVAL == 0 or index == job.last_iteration - 1:
                save(folder / f"policy-{index + 1}.zip", seen, index + 1)
                journal("saved", attempt, index + 1)
    print(f"has seen {seen} iterations")


def save(path, seen, iteration):
    """Write a checkpoint as libraries do: under its own name at once."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ballast", bytes(20_000))
        archive.writestr("state.json", json.dumps({"seen": seen, "iteration": iteration}))


def scalar(tag, step, value):
    """Return a record of an event file with one number; its own checksum is left out, which simyard does not read."""
    name = tag.encode()
    one = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(one)]) + one
    event = (
        b"\x09" + struct.pack("<d", time.time()) + b"\x10" + varint(step) + b"\x2a" + bytes([len(summary)]) + summary
    )
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked(length)) + event + bytes(4)


def varint(number):
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def masked(data):
    """Return the masked CRC-32C of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_params(folder):
    folder.mkdir(exist_ok=True)
    for name in ("env", "agent"):
        (folder / f"{name}.yaml").write_text("seed: 1\n")


def spread(values):
    mean = sum(values) / len(values)
    return {"mean": mean, "std": 1.0, "median": mean, "min": min(values), "max": max(values),
            "interval_95": [mean - 0.5, mean + 0.5]}  # fmt: skip


def figures(returns):
    """Return what `summary.json` says of some episodes."""
    return {
        "episodes": len(returns),
        "return": spread(returns),
        "length": spread([10.0] * len(returns)),
        "success": {"rate": None, "interval_95": None, "successes": None, "known": 0, "source": None},
        "ended": {"terminated": 0, "truncated": len(returns), "terms": {}},
        "reward_terms": {},
    }


def evaluate(attempt, paths):
    """Play episodes; each returns what the policy has seen of iterations, and a little more."""
    job, (policy,) = attempt.job, attempt.job.policies
    with zipfile.ZipFile(paths.inputs / policy.checkpoint.name) as archive:
        seen = json.loads(archive.read("state.json"))["seen"]
    returns, rows = [], []
    for number in range(1, job.evaluation.num_episodes + 1):
        pause(job)
        returns.append(seen + number / 100)
        journal("episode", attempt, number)
        rows.append(f"{policy.checkpoint.name},{policy.iteration},{number},0,{job.seed},{returns[-1]!r},10,truncated,,")
        say_count("episode", number, job.evaluation.num_episodes, step=number, reward=returns[-1])
    head = "checkpoint,iteration,episode,env,seed,return,length,ended,term,success"
    (paths.output / "episodes.csv").write_text("\n".join([head, *rows]) + "\n")
    (paths.output / "metrics.csv").write_text(f"step,return_mean\n{policy.iteration},{sum(returns) / len(returns)}\n")
    identity = {"name": policy.checkpoint.name, "sha256": policy.checkpoint.sha256, "iteration": policy.iteration}
    summary = {"checkpoint": identity, **figures(returns), "videos": None, "video_problem": None, "sweep": None}
    write_json(paths.output / "summary.json", summary)
    write_params(paths.output / "params")


def export(attempt, paths):
    """Write files that look like an export's."""
    for number, _ in enumerate(STEPS, 1):
        pause(attempt.job)
        pause(attempt.job)
        journal("step", attempt, number)
        say_count("check", number, len(STEPS))
    for name in ("policy.onnx", "policy.pt"):
        (paths.output / name).write_bytes(os.urandom(5000))
    for name in ("policy_contract.json", "checklist.json"):
        write_json(paths.output / name, {"made_by": "lean"})
    write_json(paths.output / "summary.json", {"headline": "all is well", "return": None})
    write_params(paths.output / "params")


def roll_out(attempt, paths):
    """Record steps; the file lists them."""
    job = attempt.job
    steps = []
    for number in range(1, job.rollout.steps + 1):
        pause(job)
        steps.append({"step": number, "attempt": attempt.number})
        say_count("step", number, job.rollout.steps, step=number)
    returns = [job.seed % 10 + env / 10 for env in range(job.num_envs)]
    with replacing(paths.output / "rollout.zarr") as partial:
        partial.write_text(json.dumps(steps))
    summary = {**figures(returns), "recorded_steps": job.rollout.steps * job.num_envs,
               "keys": {"row": {"shape": [2], "dtype": "float32"}}}  # fmt: skip
    write_json(paths.output / "summary.json", summary)


if __name__ == "__main__":
    rl.__path__.append(str(Path(__file__).with_name("libraries")))
    # Called as a Python is: simulator.py -m simyard.runner ARGUMENTS
    sys.argv = sys.argv[2:]
    ADAPTERS["isaaclab"] = Lean
    runpy.run_module("simyard.runner", run_name="__main__", alter_sys=True)
