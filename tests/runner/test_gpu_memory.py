"""Out of GPU memory: whose fault it is, what is said of it, and when a process has too much."""

import pytest
from gpus import install_driver

from simyard.core.errors import GPU_OUT_OF_MEMORY, Category, Failure, known_failure
from simyard.core.specs import Bounds
from simyard.runner.gpu_memory import Demand, GpuUse, explained, judged
from simyard.runner.session import _failure, beyond

GB = 10**9
OWN = 77
H200 = {"name": "NVIDIA H200", "total": 150 * GB}
WARP = "RuntimeError: Failed to allocate 4000000000 bytes on device 'cuda:0'"
TORCH = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB"
PHYSX = "PxgCudaDeviceMemoryAllocator fail to allocate memory 2147483648 bytes!! Result = 2"
CONTEXT = "RuntimeError: Failed to acquire primary context for device cuda:0"
CASES = [
    pytest.param(
        WARP, {}, 0, 149, "user",
        ["Of 150,000 MB on NVIDIA H200 the job had 149,000 MB and wanted 4,000 MB more; others hold 0 MB."],
        ["numEnvs", "at most 3,600 environments fit, of the 4,096 asked for"],
        id="too large by itself",
    ),
    pytest.param(
        WARP, {4321: 146 * GB, 99: 1 * GB}, 1, 2, "infra",
        ["the job had 2,000 MB and wanted 4,000 MB more", "others hold 147,000 MB: process 4321 (146,000 MB), "],
        ["End what holds the GPU", "at most 1,600 environments fit"],
        id="others have the rest",
    ),
    pytest.param(
        TORCH, {4321: 14 * GB}, 1, 133, "user", ["wanted 2,147 MB more", "process 4321 (14,000 MB)"], ["numEnvs"],
        id="others have a little",
    ),
    pytest.param(
        PHYSX, None, 1, 1, "infra", ["others hold 148,000 MB, processes that are not seen from here."], ["End what"],
        id="others that a container does not show",
    ),
    pytest.param(
        CONTEXT, {4321: 149 * GB}, 0, 0, "infra", ["the job had 0 MB; others hold 149,000 MB"], ["End what holds"],
        id="not even a context",
    ),
    pytest.param(WARP, {}, 147, 3, "infra", ["the job had 3,000 MB"], ["End what holds"], id="others have gone since"),
    pytest.param(
        TORCH, {}, 150, None, "resource", ["wanted 2,147 MB more; others hold 0 MB."], ["numEnvs"],
        id="it died unmeasured",
    ),
    pytest.param(
        TORCH, {4321: 100 * GB}, 50, None, "infra", ["process 4321 (100,000 MB)"], ["End what holds"],
        id="it died beside others",
    ),
    pytest.param(
        "CUDA error: out of memory", {pid: GB * pid for pid in range(10, 20)}, 5, None, "infra",
        ["the job got none; others hold 145,000 MB: process 19 (19,000 MB), ", "… (10 in all)"], ["End what holds"],
        id="many others",
    ),
]  # fmt: skip


def test_a_job_that_failed_early_is_not_told_that_more_would_fit():
    # As on an H200 of which others had left 1.5 GB, for a job of 65,536 environments.
    failure = known_failure("RuntimeError: Failed to allocate 52428800 bytes on device 'cuda:0'")
    use = GpuUse(name="NVIDIA H200", total=150_755_000_000, free=0, holders={OWN: 1_466_000_000, 4321: 148_619_000_000})
    demand = Demand(held=1_466_000_000, held_now=1_466_000_000, num_envs=65536)
    assert "environments fit" not in judged(failure, use, demand, frozenset({OWN})).advice


@pytest.mark.parametrize(("line", "others", "free", "held", "category", "said", "advice"), CASES)
def test_a_failure_says_who_can_mend_it(line, others, free, held, category, said, advice):
    known = known_failure(line)
    demand = None if held is None else Demand(held=held * GB, held_now=held * GB, num_envs=4096)
    listed = {} if others is None else others if held is None else {**others, OWN: held * GB}
    failure = judged(known, GpuUse(**H200, free=free * GB, holders=listed), demand, frozenset({OWN}))
    assert (failure.code, failure.category) == (GPU_OUT_OF_MEMORY, category)
    assert [part for part in [line, *said] if part not in failure.message] == [], failure.message
    assert [part for part in advice if part not in failure.advice] == [], failure.advice


def raised(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("the scene could not be made") from cause
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("Failed to allocate 4000000000 bytes on device 'cuda:0'"), GPU_OUT_OF_MEMORY),
        (raised(RuntimeError("Failed to acquire primary context for device cuda:0")), GPU_OUT_OF_MEMORY),
        (RuntimeError("Failed to allocate 256 bytes on device 'cpu'"), "exception"),
        (RuntimeError("Failed to allocate 8 bytes on device 'cuda:0':  Failed to allocate memory during graph capture"),
         "exception"),
    ],
)  # fmt: skip
def test_an_exception_is_known_by_its_words_however_deep_it_lies(error, code):
    assert _failure(error).code == code


GPUS = ["0, GPU-11aa, NVIDIA H200, 143771, 143000", "1, GPU-22bb, NVIDIA H200, 143771, 1271"]
PROCESSES = ["GPU-11aa, 10, 500", "GPU-22bb, 20, 142000", "GPU-22bb, 21, [N/A]"]


@pytest.mark.parametrize(
    ("visible", "line", "said"),
    [
        pytest.param(None, "Failed to allocate 9 bytes on device 'cuda:1'", "process 20 (148,898 MB)", id="by number"),
        pytest.param("1", "Failed to allocate 9 bytes on device 'cuda:0'", "process 20 (148,898 MB)", id="one shown"),
        pytest.param("GPU-22bb,0", "CUDA out of memory. Tried to allocate 1 GiB", "process 20", id="by its name"),
        pytest.param(None, "CUDA out of memory.", "process 10 (524 MB)", id="the first"),
        pytest.param("7", "CUDA out of memory.", None, id="unknown"),
    ],
)
def test_the_driver_is_asked_for_the_gpu_that_the_process_means(tmp_path, monkeypatch, visible, line, said):
    install_driver(tmp_path, monkeypatch, GPUS, PROCESSES)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    known = known_failure(line)
    found = explained(known)
    assert said in found.message if said else found == known


def test_where_there_is_no_driver_a_failure_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    known = known_failure("CUDA out of memory.")
    assert explained(known) == known
    other = Failure(code="killed", category=Category.INFRA, message="CUDA out of memory.")
    assert explained(other) is other


@pytest.mark.parametrize(
    ("memory", "on_gpus", "said"),
    [
        (10 * GB, None, None),
        (10 * GB, 4 * GB, None),
        (10 * GB, 6 * GB, "it has 6.0 GB of GPU memory, more than 5.0 GB"),
        (17 * GB, None, "it has 17.0 GB of memory, more than 16.0 GB"),
    ],
)
def test_a_process_that_has_grown_beyond_a_bound_takes_no_other_job(memory, on_gpus, said):
    assert beyond(Bounds(memory_bytes=16 * GB, gpu_memory_bytes=5 * GB), memory, on_gpus) == said
