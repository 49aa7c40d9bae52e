"""A simulator that plays the scenario in a job's description, under the real runner.

It is a fake because no simulator fails on command: none hangs, runs out of memory or dies at the seventh iteration
because a test needs it to. The adapter is the seam that simyard owns. Everything around it is real: the process, its
socket and signals, its files, its checkpoints (torch), its event files (TensorBoard), its children.

It behaves as rsl_rl does: iteration headlines, `model_<index>.pt` every second iteration and after the last one, one
TensorBoard step an iteration, and a checkpoint that says with which index to go on. Where a job trains with `toy` it
behaves as `libraries/toy.py` says instead. Every weight counts the iterations that the policy has seen, so a repeated
or a skipped iteration shows in the last checkpoint.

A scenario is a list such as `deaf; hang at 5 once`: what happens, in which iteration, before anything of it is kept
(without a number in the first; `end` is after the end marker), and `once` for the first attempt alone.
"""

import json
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from datetime import datetime
from pathlib import Path

import litter

from simyard.core.errors import RequestError
from simyard.core.files import write_json
from simyard.core.specs import Facts, InputFile, PolicyFile, Room
from simyard.core.task_facts import TaskFacts
from simyard.runner import rl
from simyard.runner.adapter import ADAPTERS, Adapter
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.evaluation.summary import summarize
from simyard.runner.evaluation.tables import EpisodeTable, write_metrics
from simyard.runner.isaaclab.training import StopWatch
from simyard.runner.progress import say_count, say_note, say_stopped
from simyard.runner.rl import Resumption, get_library

ITERATION_S = 0.1
SAVE_INTERVAL = 2
_LEAK = []
_STEP = re.compile(r"([a-z-]+)(?: at (\d+|end))?( once)?")


class Scenario(Adapter):
    """Stands where Isaac Lab's adapter stands."""

    def preload(self, library):
        if not library:  # as Isaac Lab's
            return
        sys.modules["boto3"] = None  # TensorBoard imports it for buckets, which takes half a second
        import torch.utils.tensorboard  # noqa: F401

        logging.getLogger(litter.LOGGER)
        time.sleep(float(os.environ.get("SCENARIO_IMPORT_S", "0")))

    def findings(self):
        return json.loads(os.environ.get("SCENARIO_FINDINGS", "{}"))

    def tasks(self, names, overlay, import_callback, *, measure):
        told = os.environ.get("SCENARIO_TASKS")
        if told is None:
            raise RequestError("Isaac Lab is not installed.", code="no_simulator", advice="Name SIMYARD_PYTHON.")
        if told == "die":
            os._exit(3)
        known = {facts["task"]: TaskFacts.from_json(facts | {"measured": measure}) for facts in json.loads(told)}
        with open(os.environ["SCENARIO_ASKED"], "a", encoding="utf-8") as asked:
            print(names, file=asked)
        return tuple(known), tuple(known[name] for name in names or known if name in known)

    def check(self, job, overlay, files):
        if job.description == "refuse":
            raise RequestError("Unknown task 'Nowhere'.", code="unknown_task", advice="Allowed: 'Somewhere'.")
        return Facts(
            simulator=job.simulator,
            version="1",
            flavor="api",
            device="cpu",
            rollout=16,
            overrides=job.overrides,
            not_resumable="its checkpoints lack the normaliser" if "not-resumable" in job.description else None,
            notes=("a note",),
            versions={"python": sys.version.split()[0]},
            room=Room(size_bytes=10**9, what="a gigabyte of nothing") if job.description == "large" else None,
        )

    def run(self, attempt, facts, paths):
        if attempt.job.kind == "evaluate":
            evaluate(attempt, paths)
        elif attempt.job.kind == "rollout":  # of a warm-up: nobody looks at what it leaves
            print(f"started {os.getpid()}")
        else:
            (ToyRun if attempt.job.library == "toy" else Run)(attempt, paths).train()


def evaluate(attempt, paths):
    """Measure a policy: each return is what its weights count and some noise, and a success from 12 on.

    Unlearned actions earn what their names have letters. The override `env.evaluation=slow` takes five seconds for it,
    `env.evaluation=crash` breaks it, `env.evaluation=kill` kills it in its first attempt, and with
    `env.evaluation=fail` nothing ever succeeds.
    """
    import numpy as np
    import torch

    job = attempt.job
    print(f"started {os.getpid()}")
    if "env.evaluation=crash" in job.overrides:
        raise ValueError("the environment is wrong")
    if "env.evaluation=kill" in job.overrides and attempt.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.evaluation.actions:
        audit(job, paths)
        return
    (policy,) = job.policies
    weights = torch.load(paths.inputs / policy.checkpoint.name)["actor_state_dict"]["weights"]
    noise = np.random.default_rng(job.seed).normal(0, 1, job.evaluation.num_episodes)
    table = EpisodeTable(paths.output / "episodes.csv", job.seed)
    episodes = []
    for number, share in enumerate(noise, 1):
        if "env.evaluation=slow" in job.overrides:
            time.sleep(5 / len(noise))
        total = float(weights.mean() + share)
        good = total >= 12 and "env.evaluation=fail" not in job.overrides
        episodes.append(
            Episode(number=number, env=0, total=total, length=10, ended="truncated", term=None, success=good)
        )
        table.add(policy, episodes[-1])
        say_count("episode", number, len(noise), step=number, reward=total)
    table.write()
    identity = {"name": policy.checkpoint.name, "sha256": policy.checkpoint.sha256, "iteration": policy.iteration}
    figures = summarize(episodes, "the scenario")
    leave(paths, [{"checkpoint": identity, **figures, "videos": None, "video_problem": None, "tags": {}}])


def audit(job, paths):
    """Measure unlearned actions."""
    table, summaries = EpisodeTable(paths.output / "episodes.csv", job.seed), []
    for actions in job.evaluation.actions:
        rewards = {"alive": float(len(actions)), "effort": 0.0}
        one = Episode(
            number=1, env=0, total=rewards["alive"], length=10, ended="truncated", term=None, success=False,
            rewards=rewards,
        )  # fmt: skip
        table.add(PolicyFile(checkpoint=InputFile(name=actions, key="", sha256="", size_bytes=0)), one)
        identity = {"name": actions, "sha256": "", "iteration": None}
        figures = summarize([one] * job.evaluation.num_episodes, "the scenario")
        summaries.append({"checkpoint": identity, **figures, "videos": None, "video_problem": None, "tags": {}})
    table.write()
    leave(paths, summaries)


def leave(paths, summaries):
    """Leave the tables of an evaluation."""
    write_metrics(paths.output / "metrics.csv", summaries)
    write_json(paths.output / "summary.json", summaries[0] | {"sweep": summaries if summaries[1:] else None})
    for name in ("env", "agent"):
        (paths.output / "params").mkdir(exist_ok=True)
        (paths.output / "params" / f"{name}.yaml").write_text("seed: 1\n")
    print("Evaluation time: 0.10 seconds")


class Run:
    """One attempt."""

    def __init__(self, attempt, paths):
        import torch

        self.job = attempt.job
        self.library = get_library(attempt.job.library)
        self.paths = paths
        self.stop = StopWatch(attempt, paths) if self.job.stop_when else None
        self.steps = []
        for text in filter(None, map(str.strip, self.job.description.split(";"))):
            what, at, once = _STEP.fullmatch(text).groups()
            if what.startswith("second-"):  # on the second machine alone
                if attempt.node != 1:
                    continue
                what = what.removeprefix("second-")
            if not once or attempt.number == 1:
                self.steps.append((at or "0", what.replace("-", "_")))
        self.iteration_s = ITERATION_S
        self.writes_world = attempt.world is not None and attempt.node == 0
        self.weights = torch.zeros(3, 2)
        self.start = 0
        self.keeps_state = False
        self.saves = self.marks_end = True
        self.reward_step = 10.0
        if attempt.resume:
            source = paths.inputs / attempt.resume.checkpoint.name
            resumption = Resumption(checkpoint=source, folder=paths.root, start_iteration=attempt.start_iteration)
            self.resume(self.library.prepare_resume(resumption)[0])
            if state := attempt.resume.state:
                say_note(f"it had {(paths.inputs / state.name).read_text()!r}")
        self.folder = Path("logs", self.library.name, "scenario") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
        for name, text in (("params/env.yaml", "seed: 1\n"), ("params/agent.yaml", "lr: 1\n"), ("git/lab.diff", "+")):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)

    def train(self):
        from torch.utils.tensorboard import SummaryWriter

        began = time.monotonic()
        if self.writes_world:
            write_json(self.paths.world, {"size": self.job.ranks})
        writer = SummaryWriter(str(self.folder), flush_secs=10)
        print(f"started {os.getpid()}")
        for index in range(self.start, self.job.last_iteration):
            time.sleep(self.iteration_s)
            self.play(str(index))
            self.weights += 1
            reward = self.reward_step * index
            self.log(writer, index, reward, int(time.monotonic() - began))
            if index % SAVE_INTERVAL == 0:
                self.save(index)
            if self.stop and self.stop.iterated(index, {}, 0.0):
                say_stopped(self.stop.done, self.stop.why)
                break
        self.save(index)
        print(f"every weight is {self.weights.unique().tolist()}")
        if self.marks_end:
            print(f"Training time: {time.monotonic() - began:.2f} seconds")
        self.play("end")

    # A library's own habits

    def resume(self, checkpoint):
        import torch

        state = torch.load(checkpoint)
        self.weights, self.start = state["actor_state_dict"]["weights"], state["iter"]

    def log(self, writer, index, reward, seconds):
        writer.add_scalar("Train/mean_reward", reward, index)
        writer.add_scalar("Loss/value", 1.0 / (index + 1), index)
        writer.add_scalar("Train/mean_reward/time", reward, seconds)
        print(f"\x1b[1m Learning iteration {index}/{self.job.last_iteration} \x1b[0m\nMean reward: {reward:.2f}")

    def save(self, index):
        import torch

        if self.keeps_state:
            (self.folder / f"model_{index}.pt.state").write_text(f"state {index}")
        if self.saves:
            torch.save(
                {"actor_state_dict": {"weights": self.weights}, "iter": index}, self.folder / f"model_{index}.pt"
            )

    def play(self, moment):
        for at, what in self.steps:
            if at == moment:
                getattr(self, what)()

    # What can happen

    def crash(self):
        raise ValueError("the reward function is wrong")

    def out_of_memory(self):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 0 bytes free.")

    def no_gpu_memory(self):
        """Fail as Warp does."""
        raise RuntimeError("Failed to allocate 4294967296 bytes on device 'cuda:0'")

    def die_without_gpu_memory(self):
        """End as PhysX does, which says it and crashes."""
        print("PxgCudaDeviceMemoryAllocator fail to allocate memory 67108864 bytes!! Result = 2", file=sys.stderr)
        os._exit(139)

    def warn(self):
        print("nefc overflow - please increase njmax to 120", file=sys.stderr)

    def no_vulkan(self):
        print("[Error] [gpu.foundation] vkCreateInstance failed. Vulkan 1.1 is not supported", file=sys.stderr)

    def note(self):
        print("[Warning] [carb] Client omni.hub already running, 0.5 ms", file=sys.stderr)

    def nan(self):
        self.weights[1, 1] = float("nan")

    def leave(self):
        os._exit(0)

    def end_as_kit(self):
        """Print an exception and end with 0: so does an app whose script nobody has kept from failing."""
        try:
            self.crash()
        except ValueError as error:
            prefix = "2026-11-30T11:42:40Z [1,363ms] [Error] [omni.kit.app._impl] [py stderr]: "
            for part in traceback.format_exception(error):
                sys.stderr.write(prefix + part)
            sys.stderr.flush()
            os._exit(0)

    def fail_to_start(self):
        """Say what Isaac Sim says of an app that did not start, and leave as it does."""
        print("[537ms] [Error] [omni.kit.app.plugin] Exiting app because of dependency solver failure...", flush=True)
        sys.exit(1)

    def bad_argument(self):
        sys.exit(2)

    def save_nothing(self):
        self.saves = False

    def keep_states(self):
        self.keeps_state = True

    def end_unmarked(self):
        self.marks_end = False

    def unlearn(self):
        """From now on the return falls."""
        self.reward_step = -10.0

    def compile(self):
        """Say what Isaac Lab and the kernels' compiler say, and take a while for it."""
        for line in ("[2/3] Creating environment", *(f"doing: compiling kernels: {n} so far" for n in (1, 2))):
            print(line)
            time.sleep(1.0)

    def slow(self):
        self.iteration_s = 0.5

    def deaf(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def not_resumable(self):
        """The check says so."""

    def hang(self):
        time.sleep(600)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def tear(self):
        """Die in the middle of writing a checkpoint, after the one before it."""
        newest = self.folder / f"model_{len(list(self.folder.glob('model_*.pt'))) * SAVE_INTERVAL - SAVE_INTERVAL}.pt"
        data = newest.read_bytes()
        newest.with_name(f"model_{self.job.last_iteration - 2}.pt").write_bytes(data[: len(data) // 2])
        self.kill()

    def family(self):
        """Start processes that outlive their parent: in the group, in a session of their own, and an orphan."""
        children = [subprocess.Popen(["sleep", "600"], start_new_session=own) for own in (False, True)]
        orphan = subprocess.run(
            ["sh", "-c", "setsid sleep 600 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True
        )
        for pid in (*(child.pid for child in children), int(orphan.stdout)):
            print(f"started {pid}")

    def fork(self):
        """Have children that got every descriptor of their parent: one is a fork, one a shell's."""
        os.system("sleep 600 & echo started $!")
        if (pid := os.fork()) == 0:
            time.sleep(600)
        print(f"started {pid}")

    def orphan(self):
        """Start a process that is nobody's child at once."""
        subprocess.run(["sh", "-c", "setsid sleep 600 >/dev/null & echo started $!"], check=True)

    def thread(self):
        threading.Thread(target=time.sleep, args=(600,), name="never ends", daemon=True).start()

    def open_files(self):
        _LEAK.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(100))

    def litter(self):
        folder = self.paths.root / "litter"
        folder.mkdir()
        print(f"draws {json.dumps(litter.draw())}")
        litter.litter(folder)

    def look(self):
        """Print what a job sees of its process."""
        here = Path.cwd()
        seen = {"folder": str(here.relative_to(self.paths.root)), "files": sorted(path.name for path in here.iterdir())}
        print(f"sees {json.dumps(seen | litter.look())}")
        print(f"draws {json.dumps(litter.draw())}")

    def import_code(self):
        """Import what somebody is about to edit."""
        sys.path.insert(0, os.environ["SCENARIO_CODE"])
        import edited  # noqa: F401

    def plant(self):
        """Leave names of what is not its own wherever it writes."""
        secret = self.paths.root.parents[2] / "secret"
        os.symlink(secret, self.folder / "params" / "link.yaml")
        os.symlink(secret, self.folder / "model_1.pt")
        os.symlink(secret.parent, self.paths.output / "folder")
        os.link(secret, self.paths.output / "hard.txt")
        os.mkfifo(self.paths.output / "pipe.txt")
        os.mkfifo(self.folder / "events.out.tfevents.pipe")
        for path in (self.paths.stderr, self.paths.metrics):
            path.unlink(missing_ok=True)
            path.symlink_to(secret)

    def spy(self):
        """Read the environment of every process that this one descends from."""
        seen, pid = {}, os.getppid()
        while pid > 0:
            try:
                seen[pid] = "hunter2" if b"hunter2" in Path(f"/proc/{pid}/environ").read_bytes() else "nothing"
            except OSError as error:
                seen[pid] = error.strerror
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        print(f"spied {json.dumps(seen)}")

    def show_environment(self):
        for name, value in sorted(os.environ.items()):
            print(f"{name}={value}")


class ToyRun(Run):
    """One attempt of the library in `libraries/toy.py`, which counts updates from 1, and anew in each attempt."""

    def resume(self, checkpoint):
        import numpy as np
        import torch

        with np.load(checkpoint) as arrays:
            self.weights = torch.from_numpy(arrays["weights"])
        with zipfile.ZipFile(checkpoint) as archive:
            self.start = json.loads(archive.read("note.json"))["update"]

    def log(self, writer, index, reward, seconds):
        writer.add_scalar("toy/return", reward, index + 1)
        print(f"update {index + 1 - self.start} of {self.job.last_iteration - self.start}, return {reward:.2f}")

    def save(self, index):
        import numpy as np

        file = self.folder / f"policy-{index + 1 - self.start}.npz"
        np.savez(file, weights=self.weights.numpy())
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("note.json", json.dumps({"version": 1, "update": index + 1}))


if __name__ == "__main__":
    if libraries := os.environ.get("SCENARIO_LIBRARIES"):
        rl.__path__.append(libraries)
    # Called as a Python is: simulator.py -m simyard.runner ARGUMENTS
    sys.argv = sys.argv[2:]
    ADAPTERS["isaaclab"] = Scenario
    runpy.run_module("simyard.runner", run_name="__main__", alter_sys=True)
