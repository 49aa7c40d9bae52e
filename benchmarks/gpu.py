"""What a GPU shows: the whole table in one run of at most 25 minutes, as Markdown.

    python benchmarks/gpu.py [--out gpu.md] [--seconds 1500] [--only base leak …] [--device cuda:0] [--envs 4096]
    python benchmarks/gpu.py --gpus 4 [--only weak-rsl_rl …]       # several GPUs of this machine: gpu_scaling.py

`--out` is written after every row, and beside it a `.json` with all that was found, so that a table may be made in
several runs: a row that is run again is replaced, the others stay. No row begins that would not end in `--seconds`; one
that takes longer than was thought is ended. `--device cpu --envs 32` shows that everything works; its figures mean
little. The rows:

    base       `simyard train` against bare `isaaclab train`, Cartpole and Ant, in turns; whether weights are the same
    leak       what a session keeps of each job: gpu_leak.py
    memory     each way to run out of GPU memory, and what is told: gpu_leak.py
    session    first iteration and end in a kept session, by the flow, the command and the client
    evaluate   `evaluate --job` beside the session of its training
    film       the first film on a machine, and the second
    rate       steps a second that a rollout says it makes, against the loop itself
    trainer    a managed iteration of the example trainer, 2 x 1,024 environments
    kernels    the first rollout with no kernels, with imported ones, and with its own
    episodes   an evaluation of fewer episodes than environments
    physx      what PhysX does: a training of each task, its evaluation in both engines, export, resume, films
    profile    gpu_profile.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sessions import SIMYARD, SessionBench

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
LEAK_MB = 5.0
"""MB of GPU memory by which allocators may differ from job to job."""
MEMORY_CASE_S = 30.0
"""Seconds of a case of `memory`."""
CARTPOLE, ANT = "Isaac-Cartpole-Direct", "Isaac-Ant-Direct"


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    found: str
    wanted: str = ""
    holds: bool | None = None
    """Whether it is as wanted; None where nothing is wanted, or nothing was found."""


class OutOfTimeError(Exception):
    """Error of a row that would take longer than there is."""


def main() -> None:
    """Run the rows and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    parser.add_argument("--only", nargs="+", metavar="ROW")
    parser.add_argument("--seconds", type=float, default=1500.0, help="at most, for all rows together")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--envs", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1, help="of what is compared")
    parser.add_argument(
        "--large", type=int, default=8, help="with --gpus: weak scaling of so many times --envs too; or 0"
    )
    parser.add_argument(
        "--gpus", type=int, default=0, metavar="N", help="measure the scaling to so many, in place of the table"
    )
    options = parser.parse_args()
    options.on_gpu = options.device != "cpu"
    options.several, options.gpus = options.gpus, int(options.on_gpu)
    options.iterations = 60 if options.on_gpu else 4
    rows = ROWS
    if options.several:
        import gpu_scaling

        rows = gpu_scaling.rows(options)
    if unknown := sorted(set(options.only or ()) - set(rows)):
        sys.exit(f"--only {unknown[0]}: no such row. Allowed: {', '.join(rows)}.")
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", ignore_cleanup_errors=True) as folder:
        bench = GpuBench(Path(folder), options)
        table = Table(options.out, bench)
        with bench.server():
            bench.env |= {"PREFECT_HOME": str(bench.folder / "a"), "PREFECT_API_URL": bench.url}
            bench.env |= {"PREFECT_LOGGING_LEVEL": "ERROR"}
            for name in options.only or rows:
                table.add(name, *rows[name])
    print(options.out.read_text())


class Table:
    """The rows so far, on disk too."""

    def __init__(self, out: Path, bench: GpuBench) -> None:
        self.out, self.bench = out, bench
        self.kept = out.with_suffix(".json")
        self.rows: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        self.head = machine(bench)

    def add(self, name: str, row: Callable[[GpuBench], list[Line]], seconds: float) -> None:
        """Run a row and write the table; what goes wrong in it stands there in its place."""
        began, self.bench.lines = time.monotonic(), []
        try:
            if self.bench.left_s < (seconds if self.bench.options.on_gpu else 0):
                raise OutOfTimeError(f"not run: {self.bench.left_s:.0f} s were left, and it takes {seconds:.0f}")
            lines = row(self.bench)
        except OutOfTimeError as error:
            lines = [*self.bench.lines, Line(name, str(error))]
        except Exception as error:
            traceback.print_exc()
            lines = [
                *self.bench.lines,
                Line(
                    name,
                    f"failed: {str(error).strip().splitlines()[-1][:200] if str(error).strip() else error!r}",
                    holds=False,
                ),
            ]
        took = time.monotonic() - began
        self.rows[name] = {"lines": [asdict(line) for line in lines], "seconds": round(took, 1), "on": self.head}
        for line in lines:
            print(f"{name:10} {line.what:60} {line.found:40} {line.wanted}", flush=True)
        self.kept.write_text(json.dumps(self.rows, indent=1))
        self.out.write_text(self.text())

    def text(self) -> str:
        """Return the table as Markdown."""
        lines = [f"{head}\n" for head in dict.fromkeys(row["on"] for row in self.rows.values())]
        lines += ["| row | | found | wanted | holds |", "|---|---|---|---|---|"]
        for name, row in self.rows.items():
            for line in row["lines"]:
                holds = {None: "", True: "yes", False: "**no**"}[line["holds"]]
                lines.append(f"| {name} | {line['what']} | {line['found']} | {line['wanted']} | {holds} |")
        taken = ", ".join(f"{name} {row['seconds']:.0f}" for name, row in self.rows.items())
        return "\n".join([*lines, "", f"Seconds a row: {taken}.", ""])


def machine(bench: GpuBench) -> str:
    """Return a line about this machine."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus: list[str] = []
    if bench.options.on_gpu and shutil.which(asked[0]):
        gpus = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    named = f"{len(gpus)} x {gpus[0]}" if gpus else "no GPU"
    about = f"{os.cpu_count()} cores, Python {platform.python_version()}, {bench.options.envs} environments"
    return f"{named}, {about}, {datetime.now(UTC):%Y-%m-%d}"


class GpuBench(SessionBench):
    """What the rows have in common: a folder, a Prefect server, a store, and the time that is left."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        super().__init__(folder, options)
        self.ends = time.monotonic() + options.seconds
        self.lines: list[Line] = []
        """Lines of a long row so far: they stay when the rest fails or has no time."""
        self.env |= {"SIMYARD_ALLOW_CPU_TRAINERS": "on"}

    @property
    def left_s(self) -> float:
        """Seconds that are left for all rows."""
        return self.ends - time.monotonic()

    def _in(self, folder: Path, command: Sequence[str], **env: str) -> str:
        try:
            done = subprocess.run(
                list(map(str, command)), env=self.env | env, cwd=folder, capture_output=True, text=True, check=False,
                timeout=max(1.0, self.left_s),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise OutOfTimeError("ended: the time was up") from None
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(map(str, command))[-300:]} failed:\n{done.stdout[-800:]}\n{done.stderr[-1500:]}"
            )
        return done.stdout

    def simyard(self, *arguments: Any, **env: str) -> Any:
        """Run a command of simyard; return the JSON of its last line."""
        out = self._in(self.folder, [sys.executable, "-c", SIMYARD, *map(str, arguments), "--json"], **env)
        return json.loads(out.splitlines()[-1])

    def timed(self, *arguments: Any, **env: str) -> tuple[float, Any]:
        """Return also the seconds that the command took."""
        began = time.monotonic()
        found = self.simyard(*arguments, **env)
        return time.monotonic() - began, found

    def write(self, name: str, content: Any) -> Path:
        """Write a JSON file."""
        path = self.folder / name
        path.write_text(json.dumps(content))
        return path

    def training(self, name: str, task: str = CARTPOLE, **section: Any) -> Path:
        """Write the config of a training."""
        section = {"task": task, "numEnvs": self.options.envs, "maxIterations": self.options.iterations, **section}
        return self.write(
            f"{name}.json", {"trainingConfig": section, "computeConfig": {"gpusPerNode": self.options.gpus}}
        )

    def rollout(self, name: str, **more: Any) -> Path:
        """Write the request of a rollout of Cartpole with random actions."""
        return self.write(f"{name}.json", {
            "name": name, "runtime_profile": "isaac_lab_rollout", "isaac_lab": {"task_class_or_name": CARTPOLE},
            "execution": {"num_envs": self.options.envs, "steps": 300, "seed": 1}, "control": {"task_mode": "random"},
            "compute_config": {"gpus_per_node": self.options.gpus}, **more,
        })  # fmt: skip

    def job(self, job_id: str) -> Path:
        """Return the folder of a job."""
        return self.store / "jobs" / job_id

    def summary(self, job_id: str) -> dict[str, Any]:
        """Return the summary of a job."""
        found: dict[str, Any] = json.loads((self.job(job_id) / "result.json").read_text())["summary"]
        return found

    def fresh(self, name: str) -> str:
        """Return the path of a new empty folder."""
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder)


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Return the median, and all of them where there are several."""
    every = f" ({', '.join(f'{value:.2f}' for value in values)})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f} {unit}{every}"


# --- the rows ---------------------------------------------------------------------------------------------------------


def base(bench: GpuBench) -> list[Line]:
    """A training by simyard against the same by Isaac Lab alone."""
    import torch

    lines, short = bench.lines, bench.options.iterations
    for task, iterations in ((CARTPOLE, short), (ANT, short)):
        config = bench.training("base", task, maxIterations=iterations, seed=42)
        _bare(bench, task, 2)  # fills the kernel cache
        bare, ours, same = [], [], []
        for _ in range(bench.options.rounds):
            seconds, theirs = _bare(bench, task, iterations)
            bare.append(seconds)
            print("bare", task, seconds, flush=True)
            seconds, result = bench.timed("train", config, "--store", bench.store, "--session", "off")
            ours.append(seconds)
            kept = bench.job(result["job_id"]) / "artifacts" / "checkpoints" / theirs.name
            one, two = (torch.load(path, weights_only=True, map_location="cpu") for path in (theirs, kept))
            weights = one["actor_state_dict"].items()
            same.append(all(torch.equal(value, two["actor_state_dict"][name]) for name, value in weights))
        ratio = statistics.median(ours) / statistics.median(bare)
        size = f"{task}, {iterations} iterations"
        lines += [
            Line(f"{size}: bare", spread(bare)),
            Line(f"{size}: simyard", f"{spread(ours)}, {ratio:.2f} x bare", "1.1 x bare at most", ratio <= 1.1),
            Line(f"{size}: the same weights", f"{sum(same)} of {len(same)}", "all", all(same)),
        ]
    return lines


def _bare(bench: GpuBench, task: str, iterations: int) -> tuple[float, Path]:
    """Run `isaaclab train`; return its seconds and its last checkpoint."""
    folder = Path(bench.fresh("bare"))
    command = [sys.executable, "-m", "isaaclab", "train", "--rl_library", "rsl_rl", "--task", task, "--seed", "42"]
    command += ["--num_envs", str(bench.options.envs), "--max_iterations", str(iterations), "--device", bench.device]
    began = time.monotonic()
    bench._in(folder, [*command, "physics=newton_mjwarp", f"agent.device={bench.device}"])
    seconds = time.monotonic() - began
    (last,) = folder.glob(f"logs/rsl_rl/*/*/model_{iterations - 1}.pt")
    return seconds, last


def leak(bench: GpuBench) -> list[Line]:
    """What a session keeps of each of its jobs, whose sizes change."""
    import gpu_leak

    rows = gpu_leak.leak(Path(bench.fresh("leak")), 60 if bench.options.on_gpu else 6, bench.options.gpus)
    middle, last = rows[len(rows) // 2], rows[-1]
    holds = last.models == 0 and last.arrays <= middle.arrays and last.gpu_mb - middle.gpu_mb < LEAK_MB
    return [Line(f"{len(rows)} jobs in one session", gpu_leak.growth(rows), "nothing more in the second half", holds)]


def memory(bench: GpuBench) -> list[Line]:
    """What is told where the GPU's memory does not do."""
    if not bench.options.on_gpu:
        return [Line("out of GPU memory", "not run: it needs a GPU")]
    import gpu_leak

    for row in gpu_leak.shortage(Path(bench.fresh("memory"))):
        told = f"{row.code}, {row.category}: {row.message[:160]}"
        bench.lines.append(Line(row.case, told, row.expected, row.ok))
        if bench.left_s < MEMORY_CASE_S:
            raise OutOfTimeError("the other cases: not run, the time was up")
    return bench.lines


def session(bench: GpuBench) -> list[Line]:
    """The first iteration in a kept session, and the end after the last one, by every way in: sessions.py has each."""
    short = json.loads(bench.config.read_text())
    short["trainingConfig"]["maxIterations"] = 5
    bench.config.write_text(json.dumps(short))
    bench.inline()
    with bench.kept():
        for _ in range(3):
            bench.note("kept, by the command", *bench.command())
    bench.lines += [*_times(bench, "inline warm"), *_times(bench, "kept, by the command")]
    with bench.site() as submit, bench.kept():
        submit()  # the worker's first run imports the flows
        bench.stages.clear()
        for _ in range(3):
            bench.note("kept, by the client", *submit())
    stages = {name: statistics.median(one[name] for one in bench.stages) for name in bench.stages[0]}
    way = ", ".join(f"{name} {at:.2f}" for name, at in stages.items())
    return [*bench.lines, *_times(bench, "kept, by the client"), Line("the client's way, s", way)]


def _times(bench: GpuBench, way: str) -> list[Line]:
    first, _, after = zip(*bench.found[way], strict=True)
    return [
        Line(f"first iteration, {way}", spread(first), "1.5 s", statistics.median(first) <= 1.5),
        Line(f"end after the last iteration, {way}", spread(after), "1 s", statistics.median(after) <= 1.0),
    ]


@contextmanager
def keeping(bench: GpuBench, config: Path, **env: str) -> Iterator[None]:
    """Keep a session for the jobs of a config."""
    bench.simyard("sessions", "start", config, "--store", bench.store, **env)
    try:
        yield
    finally:
        bench.simyard("sessions", "stop", "--all")


def evaluate(bench: GpuBench) -> list[Line]:
    """An evaluation of a training's policy beside that training's session."""
    config = bench.training("trained", maxIterations=5)
    with keeping(bench, config):
        bench.simyard("train", config, "--store", bench.store)
        command = ("evaluate", "--job", "latest", "--store", bench.store, "--set", "numEpisodes=100")
        first, result = bench.timed(*command)
        second, _ = bench.timed(*command)
    log = (bench.job(result["job_id"]) / "artifacts" / "runner.log").read_text()
    warm = "jobs_before=0" not in log
    return [
        Line("`evaluate --job` beside its training's session", f"{first:.1f} s, then {second:.1f} s"),
        Line("it ran in that session", "yes" if warm else "no: it started a simulator", "yes", warm),
    ]


def film(bench: GpuBench) -> list[Line]:
    """The first film on a machine against the second: nothing is in a driver's cache of shaders before."""
    caches = {name: bench.fresh("gl") for name in ("__GL_SHADER_DISK_CACHE_PATH", "MESA_SHADER_CACHE_DIR")}
    config = bench.rollout("film", outputs={"video": True})
    with keeping(bench, config, **caches):
        command = ("rollout", config, "--store", bench.store, "--wait")
        times = [bench.timed(*command, **caches)[0] for _ in range(3)]
    more = times[0] - statistics.median(times[1:])
    return [
        Line("the first film costs more", f"{more:.1f} s ({', '.join(f'{t:.1f}' for t in times)})", "1 s", more <= 1.0)
    ]


def rate(bench: GpuBench) -> list[Line]:
    """The rate that a rollout tells against that of its loop."""
    config = bench.rollout("rate")
    result = bench.simyard("rollout", config, "--store", bench.store, "--wait")
    told = bench.summary(result["job_id"])["environment_steps_per_second"]
    command = [
        sys.executable,
        HERE / "recording.py",
        "--megabytes",
        "1",
        "--rounds",
        "2",
        "--envs",
        str(bench.options.envs),
    ]
    (loop,) = json.loads(bench._in(bench.folder, command).splitlines()[-1])["simulation"]
    ratio = told / loop["recorded"]
    return [
        Line("steps/s that a rollout tells", f"{told:,.0f}"),
        Line("steps/s of the loop, recorded and not", f"{loop['recorded']:,.0f}, {loop['bare']:,.0f}"),
        Line("told against the loop", f"{ratio:.2f}", "0.9 to 1.1", 0.9 <= ratio <= 1.1),
    ]


def trainer(bench: GpuBench) -> list[Line]:
    """The example trainer in a managed run."""
    request = json.loads((EXAMPLES / "managed_training" / "cartpole-ppo.json").read_text())
    envs = bench.options.envs // 4
    request["rollout_template"] |= {"num_envs": envs, "compute_config": {"gpus_per_node": bench.options.gpus}}
    request["trainer_spec"]["resources"] = {"gpu": bench.options.gpus, "cpu": 1, "memory_gb": 16}
    request["trainer_spec"]["entrypoint"] = f"python {EXAMPLES / 'managed_training/ppo_trainer/train_ppo.py'}"
    request |= {"loop_policy": {"max_iterations": 4}, "success_criteria": {"metric": "mean_return", "target": None}}
    path = bench.write("managed.json", request)
    result = bench.simyard("managed", "start", path, "--store", bench.store, "--wait")
    run = bench.store / "training-runs" / result["run_id"]
    records = [json.loads(file.read_text()) for file in sorted(run.glob("iterations/*/iteration.json"))][1:]
    walls, calls = ([record[name] for record in records] for name in ("seconds", "trainer_seconds"))
    own = [json.loads(file.read_text())["seconds"] for file in sorted(run.glob("iterations/*/**/metrics.json"))][1:]
    returns = ", ".join(f"{record['mean_return']:.2f}" for record in records)
    share = statistics.median(calls) / statistics.median(walls)
    return [
        Line(f"a managed iteration, 2 x {envs:,} environments x 300 steps", spread(walls)),
        Line("the trainer's process in it", f"{spread(calls)}, {share:.0%}", "3 s", statistics.median(calls) < 3.0),
        Line("in it, all but its start and its imports", spread(own) if own else "not told"),
        Line("returns of iterations 2 to 4", returns),
    ]


def kernels(bench: GpuBench) -> list[Line]:
    """The first rollout on a machine without kernels, with imported ones, and with its own."""

    def caches(name: str) -> dict[str, str]:
        return {"WARP_CACHE_PATH": bench.fresh(f"warp-{name}"), "CUDA_CACHE_PATH": bench.fresh(f"cuda-{name}")}

    config = bench.rollout("kernels")
    run = ("rollout", config, "--store", bench.store, "--session", "off", "--wait")
    own = caches("own")
    cold, _ = bench.timed(*run, **own)
    archive = bench.folder / "kernels.tar.gz"
    exported = bench.simyard("cache", "export", archive, **own)
    took, imported, warm = [], [], []
    for number in range(bench.options.rounds):
        other = caches(str(number))
        seconds, _ = bench.timed("cache", "import", archive, "--sha256", exported["sha256"], **other)
        took.append(seconds)
        imported.append(bench.timed(*run, **other)[0])
        warm.append(bench.timed(*run, **own)[0])
    ratio = statistics.median(imported) / statistics.median(warm)
    size = f"{exported['files']} files, {exported['size_bytes'] / 1e6:.1f} MB"
    return [
        Line("first rollout, no kernels", f"{cold:.1f} s"),
        Line("`cache import`", f"{spread(took)}: {size}"),
        Line("first rollout, imported kernels", f"{spread(imported)}, {ratio:.2f} x warm", "1.1 x warm", ratio <= 1.1),
        Line("a rollout, its own kernels", spread(warm)),
    ]


def episodes(bench: GpuBench) -> list[Line]:
    """An evaluation with more environments than episodes, and with as many."""
    config = bench.training("policy", maxIterations=5)
    bench.simyard("train", config, "--store", bench.store)
    count = bench.options.envs // 4
    lines = []
    for envs in (count, bench.options.envs):
        settings = ("--set", f"numEpisodes={count}", f"numEnvs={envs}", "recordVideo=false")
        seconds, result = bench.timed("evaluate", "--job", "latest", "--store", bench.store, *settings)
        summary = bench.summary(result["job_id"])
        told = f"{summary['num_envs']} environments, {summary['episodes']} episodes, {seconds:.1f} s"
        right = (summary["num_envs"], summary["episodes"]) == (envs, count)
        mean = f"mean {summary['return']['mean']:.3f} {[round(x, 3) for x in summary['return']['interval_95']]}"
        lines.append(Line(f"{count} episodes asked for, {envs} environments", f"{told}, {mean}", "exactly both", right))
    return lines


def physx(bench: GpuBench) -> list[Line]:
    """What PhysX does: jobs of every kind, on policies that it trained."""
    lines, store, short = bench.lines, bench.store, bench.options.iterations
    for task, iterations in ((CARTPOLE, short), (ANT, 2 * short)):
        config = bench.training("physx", task, maxIterations=iterations, seed=42)
        seconds, trained = bench.timed("train", config, "--store", store, "--set", "physics=physx")
        result = json.loads((bench.job(trained["job_id"]) / "result.json").read_text())
        rate = result["summary"]["environment_steps_per_second"] or 0.0  # of a few iterations none is told
        told = f"{seconds:.1f} s, {rate:,.0f} steps/s, final reward {result['reward']}"
        lines.append(Line(f"{task}, {iterations} iterations", told))
        print(told, flush=True)
        command = ("--job", trained["job_id"], "--store", store)
        settings = ("--set", "numEpisodes=64", "recordVideo=true")
        seconds, result = bench.timed("evaluate", *command, "--across", "physx,newton", *settings)
        gap = bench.summary(result["job_id"])["across"]["gaps"][0]["returns"]
        films = len(list((bench.job(result["job_id"]) / "artifacts" / "videos").glob("*.mp4")))
        mean = bench.summary(result["job_id"])["return"]["mean"]
        told = f"{seconds:.1f} s, mean {mean:.3f}; under newton {gap['mean']:+.4f} {gap['interval_95']}, {films} films"
        lines.append(Line(f"{task}: 64 episodes in both engines, filmed", told))
        if task == CARTPOLE:
            again = bench.write("physx-again.json", json.loads(config.read_text()) | {
                "physics": "physx", "resume": {"fromJob": trained["job_id"]},
            })  # fmt: skip
            seconds, result = bench.timed("train", again, "--store", store)
            steps = sorted(path.name for path in (bench.job(result["job_id"]) / "artifacts/checkpoints").iterdir())
            lines.append(Line("resumed, as many iterations more", f"{seconds:.1f} s, {result['status']}, {steps[-1]}"))
            seconds, result = bench.timed("export-policy", *command)
            lines.append(Line("exported", f"{seconds:.1f} s, {bench.summary(result['job_id'])['headline']}"))
            config = bench.rollout("physx", outputs={"video": True})
            more = ("--store", store, "--wait", "--set", "isaac_lab.physics=physx")
            seconds, result = bench.timed("rollout", config, *more)
            rate = bench.summary(result["job_id"])["environment_steps_per_second"]
            lines.append(Line("a rollout, filmed", f"{seconds:.1f} s, {rate:,.0f} steps/s"))
    return lines


def profile(bench: GpuBench) -> list[Line]:
    """Where a warm training's time goes."""
    command = [sys.executable, HERE / "gpu_profile.py", "--device", bench.options.device]
    command += ["--envs", str(bench.options.envs), "--iterations", str(bench.options.iterations)]
    printed = bench._in(bench.folder, command)
    out = bench.options.out.with_name(f"{bench.options.out.stem}-profile.md")
    out.write_text("\n".join(printed.splitlines()[:-1]) + "\n")
    lines = []
    for task, found in json.loads(printed.splitlines()[-1]).items():
        parts = sorted(found["parts"].items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {ms:.1f}" for name, ms in parts[:4])
        busy = f"; GPU busy {found['gpu']['busy']:.0%}" if found["gpu"] else ""
        whole = sum(found["time"].values())
        lines.append(Line(f"{task}: {whole:.1f} ms an iteration; its largest parts by themselves, ms", text + busy))
    return [*lines, Line("all of it", out.name)]


ROWS: dict[str, tuple[Callable[[GpuBench], list[Line]], float]] = {
    "base": (base, 270), "leak": (leak, 150), "session": (session, 150), "evaluate": (evaluate, 80),
    "film": (film, 90), "rate": (rate, 60), "trainer": (trainer, 70), "kernels": (kernels, 180),
    "episodes": (episodes, 80), "physx": (physx, 240), "profile": (profile, 150), "memory": (memory, 220),
}  # fmt: skip
"""Each with the seconds that it takes on a GPU whose kernels are compiled."""

if __name__ == "__main__":
    import gpu  # by the name that gpu_scaling.py has for it, so that there is one of each class

    gpu.main()
