"""Rollouts of a simulation on a GPU: the same as on a CPU, and no step waits for the device."""

import numpy as np
import pytest
from lazy import lazy

from simyard.runner.recording.reading import open_rollout
from simyard.runner.recording.recorder import RolloutRecorder

torch = lazy("torch")
warp = lazy("warp")

ENVS, STEPS = 32, 700


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")


def record(folder, inputs, *, watched=False, **sizes):
    """Record what `inputs` makes of the same numbers; return all arrays."""
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    with RolloutRecorder(
        folder / "rollout.zarr", num_envs=ENVS, longest=STEPS, control_period_s=0.02, scratch=folder, **sizes
    ) as recorder:
        for step in range(STEPS):
            values = torch.randn(ENVS, 3, generator=random)
            ended = torch.rand(ENVS, generator=random) < 0.02
            success = torch.where(values[:, 0] > 0, 1.0, float("nan"))
            quantities, flags = inputs(values, ended, success)
            # The first step makes the buffers, and a host that is ahead of the writer must wait for it.
            torch.cuda.set_sync_debug_mode("error" if watched and step else "default")
            try:
                recorder.record(quantities)
                recorder.end(flags[0], terminated=flags[0], success=flags[1])
            finally:
                torch.cuda.set_sync_debug_mode("default")
            for tensor in quantities.values():
                if isinstance(tensor, torch.Tensor):
                    tensor.zero_()  # the recorder has its own copy
    assert open_rollout(folder / "rollout.zarr").counts.steps == ENVS * STEPS
    return arrays(folder / "rollout.zarr")


def arrays(path):
    import zarr

    members = zarr.open(path, mode="r").members(max_depth=None)
    return {name: node[:] for name, node in members if isinstance(node, zarr.Array)}


def on(device):
    def inputs(values, ended, success):
        values, flags = values.to(device), (ended.to(device), success.to(device))
        quantities = {
            "obs/policy": values.clone(), "reward": values[:, 0].clone(), "wide": values.double(),
            "image": (values * 50).abs().to(torch.uint8), "contact": values > 0, "turned": values.T.clone().T,
            "count": (values * 1000).abs().to(torch.int64).to(torch.uint16), "half": values.half(),
        }  # fmt: skip
        return quantities, flags

    return inputs


def mixed(values, ended, success):
    quantities, _ = on("cuda")(values, ended, success)
    for key in ("reward", "count", "half"):
        quantities[key] = quantities[key].cpu().numpy()
    return quantities, (ended.numpy(), success.cuda())


def test_a_gpu_records_what_a_cpu_records(tmp_path):
    expected = record(tmp_path / "cpu", on("cpu"))
    for name, inputs in {"gpu": on("cuda"), "mixed": mixed}.items():
        found = record(tmp_path / name, inputs)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key].dtype == values.dtype
            assert found[key].tobytes() == values.tobytes(), (name, key)


def test_small_blocks_alternate(tmp_path):
    expected = record(tmp_path / "cpu", on("cpu"))
    found = record(tmp_path / "gpu", on("cuda"), block_bytes=1 << 12, shard_bytes=1 << 14)
    for key, values in expected.items():
        assert found[key].tobytes() == values.tobytes(), key


def test_no_step_waits_for_the_gpu(tmp_path):
    expected = record(tmp_path / "cpu", on("cpu"))
    found = record(tmp_path / "gpu", on("cuda"), watched=True)
    assert found["data/obs/policy"].tobytes() == expected["data/obs/policy"].tobytes()


def test_values_are_those_that_queued_work_computes(tmp_path):
    """The host runs far ahead of the device: what is recorded is what will be there."""
    sizes = {"num_envs": 64, "longest": 300, "control_period_s": 1, "scratch": tmp_path, "block_bytes": 1 << 16}
    with RolloutRecorder(tmp_path / "rollout.zarr", **sizes) as recorder:
        state = torch.zeros(64, 16, device="cuda")
        ones = torch.ones(4096, 4096, device="cuda")
        for _ in range(300):
            ones = (ones @ ones).clamp(1, 1)
            state += ones[:64, :16]
            recorder.record(state=state)
    found = arrays(tmp_path / "rollout.zarr")["data/state"]
    assert (found == np.tile(np.arange(1, 301), 64)[:, None]).all()


def test_inference_mode_and_streams_change_nothing(tmp_path):
    sizes = {"num_envs": 4, "longest": 300, "control_period_s": 1, "scratch": tmp_path, "block_bytes": 1 << 8}
    stream = torch.cuda.Stream()
    with RolloutRecorder(tmp_path / "rollout.zarr", **sizes) as recorder, torch.cuda.stream(stream):
        for step in range(300):
            with torch.inference_mode(step % 2 == 0):
                recorder.record(step=torch.full((4,), step, device="cuda"))
                recorder.end(torch.zeros(4, dtype=torch.bool, device="cuda"))
    assert arrays(tmp_path / "rollout.zarr")["data/step"].tolist() == list(range(300)) * 4


def test_warp_arrays_of_a_gpu_are_recorded(tmp_path):
    with RolloutRecorder(
        tmp_path / "rollout.zarr", num_envs=4, longest=50, control_period_s=1, scratch=tmp_path
    ) as recorder:
        positions = warp.zeros(4, dtype=warp.vec3, device="cuda:0")
        for step in range(50):
            positions.fill_(float(step))
            recorder.record(position=positions)
    found = arrays(tmp_path / "rollout.zarr")["data/position"]
    assert found.tolist() == [[step] * 3 for step in range(50)] * 4
