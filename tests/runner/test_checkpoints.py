"""Opening checkpoints from anywhere: nothing in them runs, and every defect has a code, a finding and an advice."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lazy import lazy

from simyard.core.errors import RequestError
from simyard.runner.isaaclab.lookup import refuse_pickled_code
from simyard.runner.rl import checkpoints
from simyard.runner.rl.base import CheckpointFacts
from simyard.runner.rl.checkpoints import Expected

torch = lazy("torch")

NAMES = {"rsl_rl": "model_59.pt", "skrl": "agent_320.pt", "rl_games": "last_x_ep_25_rew_1.5.pth", "sb3": "model.zip"}


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def mlp(*sizes: int, prefix: str = "", first: int = 0) -> dict[str, torch.Tensor]:
    """The weights of linear layers with an activation after each."""
    state = OrderedDict()
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        state[f"{prefix}{first + 2 * index}.weight"] = torch.randn(outputs, inputs)
        state[f"{prefix}{first + 2 * index}.bias"] = torch.zeros(outputs)
    return state


def state_of(library: str, inputs: int = 4, hidden: tuple[int, ...] = (32, 16), outputs: int = 2) -> dict[str, Any]:
    """What a library saves of a small normalising policy, in its own words."""
    sizes = (inputs, *hidden)
    statistics = {"running_mean": torch.zeros(inputs, dtype=torch.float64), "count": torch.tensor(7.0)}
    if library == "rsl_rl":
        actor = {"distribution.std_param": torch.ones(outputs), **mlp(*sizes, outputs, prefix="mlp.")}
        actor |= {"obs_normalizer._mean": torch.zeros(1, inputs), "obs_normalizer.count": torch.tensor(3)}
        critic = mlp(inputs, *hidden, 1, prefix="mlp.")
        step = {"step": torch.tensor(20.0), "exp_avg": torch.zeros(outputs)}
        optimizer = {"state": {0: step}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]}
        return {
            "actor_state_dict": actor, "critic_state_dict": critic, "optimizer_state_dict": optimizer,
            "iter": 59, "infos": None,
        }  # fmt: skip
    if library == "skrl":
        policy = {"log_std_parameter": torch.zeros(outputs), **mlp(*sizes, prefix="net_container.")}
        policy |= {"policy_layer.weight": torch.randn(outputs, sizes[-1]), "policy_layer.bias": torch.zeros(outputs)}
        policy |= {"value_layer.weight": torch.randn(1, sizes[-1]), "value_layer.bias": torch.zeros(1)}
        return {"policy": policy, "value": policy, "observation_preprocessor": statistics}
    if library == "rl_games":
        model = {f"running_mean_std.{name}": tensor for name, tensor in statistics.items()}
        model |= mlp(*sizes, prefix="a2c_network.actor_mlp.")
        model |= {"a2c_network.mu.weight": torch.randn(outputs, sizes[-1]), "a2c_network.sigma": torch.zeros(outputs)}
        return {"model": model, "epoch": 25, "frame": 102400, "last_mean_rewards": np.float32(-1.5), "env_state": None}
    return {
        "log_std": torch.zeros(outputs),
        **mlp(*sizes, prefix="mlp_extractor.policy_net."), **mlp(*sizes, prefix="mlp_extractor.value_net."),
        "action_net.weight": torch.randn(outputs, sizes[-1]), "action_net.bias": torch.zeros(outputs),
    }  # fmt: skip


def save(path: Path, library: str, state: Any, data: Any = None, **options: Any) -> Path:
    """Write a state as a library's file."""
    if library != "sb3":
        torch.save(state, path, **options)
        return path
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    plain = {"num_timesteps": 640, "n_envs": 4, "n_steps": 16, "gamma": 0.99, "verbose": 1, "seed": None}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", data if isinstance(data, str) else json.dumps(plain | (data or {})))
        archive.writestr("policy.pth", buffer.getvalue())
        archive.writestr("_stable_baselines3_version", "2.7.0")
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a library's checkpoint, whole unless told otherwise."""

    def make(library: str, state: Any = None, **options: Any) -> Path:
        return save(tmp_path / NAMES[library], library, state_of(library) if state is None else state, **options)

    return make


def refused(code: str, says: str, path: Path, library: str, **arguments: Any) -> RequestError:
    with pytest.raises(RequestError, match=says) as caught:
        checkpoints.inspect(path, library=library, **arguments)
    failure = caught.value.failure
    assert failure.code == code, failure
    assert path.name in failure.message
    assert failure.advice
    return caught.value


@pytest.mark.parametrize(
    ("library", "normalized"), [("rsl_rl", True), ("skrl", True), ("rl_games", True), ("sb3", None)]
)
def test_what_a_checkpoint_says_of_itself(write: Callable[..., Path], library: str, normalized: Any):
    fits = Expected(inputs=4, outputs=2, hidden=(32, 16), normalized=True)
    facts = checkpoints.inspect(write(library), library=library, expected=fits)
    assert facts == CheckpointFacts(inputs=4, outputs=2, hidden=(32, 16), normalized=normalized)


def test_layers_are_counted_by_number(write: Callable[..., Path]):
    sizes = (8, 7, 6, 5, 4, 3)
    state = state_of("rsl_rl", hidden=sizes)
    state["actor_state_dict"] = dict(sorted(state["actor_state_dict"].items()))  # mlp.10 before mlp.2
    assert checkpoints.inspect(write("rsl_rl", state), library="rsl_rl").hidden == sizes


def test_memories_and_cameras_are_seen(write: Callable[..., Path]):
    actor = {"rnn.rnn.weight_ih_l0": torch.randn(64, 5), "distribution.log_std_param": torch.zeros(2)}
    actor |= mlp(16, 8, 2, prefix="mlp.")
    facts = checkpoints.inspect(write("rsl_rl", {"actor_state_dict": actor, "iter": 0}), library="rsl_rl")
    assert (facts.inputs, facts.hidden) == (5, (8,))
    actor = {"cnns.policy.0.weight": torch.randn(8, 3, 5, 5), **mlp(16, 8, 2, prefix="mlp.")}
    facts = checkpoints.inspect(write("rsl_rl", {"student_state_dict": actor}), library="rsl_rl")
    assert (facts.inputs, facts.outputs) == (None, None)
    model = {"a2c_network.rnn.rnn.weight_ih_l0": torch.randn(64, 5), "a2c_network.mu.weight": torch.randn(2, 8)}
    assert checkpoints.inspect(write("rl_games", {"model": model}), library="rl_games").inputs is None
    lstm = state_of("sb3") | {"lstm_actor.weight_ih_l0": torch.randn(8, 4)}
    assert checkpoints.inspect(write("sb3", lstm), library="sb3").inputs is None


def test_a_model_without_a_shared_trunk(write: Callable[..., Path]):
    """skrl then keeps the last layer with the others."""
    policy = {"log_std_parameter": torch.zeros(2), **mlp(4, 32, 16, 2, prefix="net_container.")}
    facts = checkpoints.inspect(write("skrl", {"policy": policy, "value": {}}), library="skrl")
    assert (facts.inputs, facts.hidden, facts.outputs, facts.normalized) == (4, (32, 16), 2, False)


def test_a_compiled_model_has_longer_names(write: Callable[..., Path]):
    state = state_of("rl_games")
    state["model"] = {f"_orig_mod.{name}": tensor for name, tensor in state["model"].items()}
    facts = checkpoints.inspect(write("rl_games", state), library="rl_games")
    assert (facts.inputs, facts.hidden, facts.normalized) == (4, (32, 16), True)


# --- code in checkpoints ------------------------------------------------------------------------------------------


def hostile_files(folder: Path, marker: Path) -> dict[str, tuple[Path, str]]:
    """Checkpoints of every form that would run a command if they were unpickled."""
    files = {}
    for library in LIBRARIES:
        path = save(folder / NAMES[library], library, state_of(library) | {"infos": Hostile(marker)})
        files[library] = (path, library)
    old = {"_use_new_zipfile_serialization": False}
    files["legacy"] = (save(folder / "legacy.pt", "rsl_rl", {"infos": Hostile(marker)}, **old), "rsl_rl")
    for protocol in range(2, 6):
        path = folder / f"plain_{protocol}.pt"
        path.write_bytes(pickle.dumps({"infos": Hostile(marker)}, protocol=protocol))
        files[f"protocol {protocol}"] = (path, "rsl_rl")
    return files


@pytest.mark.parametrize("form", [*LIBRARIES, "legacy", *(f"protocol {number}" for number in range(2, 6))])
def test_code_in_a_checkpoint_is_named_and_does_not_run(tmp_path: Path, form: str):
    marker = tmp_path / "the-code-ran"
    path, library = hostile_files(tmp_path, marker)[form]
    error = refused("unsafe_checkpoint", rf"'{path.name}' is not plain weights: .*'posix\.system'", path, library)
    assert "do not use this file" in error.failure.advice or form.startswith("protocol")
    with pytest.raises(RequestError):
        refuse_pickled_code(path)
    assert not marker.exists()


def test_those_checkpoints_are_as_hostile_as_they_claim(tmp_path: Path):
    for form, (path, library) in hostile_files(tmp_path, tmp_path / "ran").items():
        if library == "sb3":
            with zipfile.ZipFile(path) as archive:
                torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=False)
        elif form.startswith("protocol"):
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert (tmp_path / "ran").exists(), form
        (tmp_path / "ran").unlink()


def test_settings_of_sb3_are_never_unpickled(write: Callable[..., Path], tmp_path: Path):
    import base64

    pickled = base64.b64encode(pickle.dumps(Hostile(tmp_path / "ran"))).decode()
    path = write("sb3", data={"policy_class": {":type:": "<class 'abc.ABCMeta'>", ":serialized:": pickled}})
    assert checkpoints.inspect(path, library="sb3").outputs == 2
    with pytest.raises(RequestError, match="sb3 pickles its settings") as caught:
        refuse_pickled_code(path)  # to resume it, the library would
    assert caught.value.failure.code == "unsafe_checkpoint"
    assert not (tmp_path / "ran").exists()


def test_settings_of_sb3_cannot_hide_behind_another_checkpoint(tmp_path: Path):
    """Archives are found by their ends: torch and Stable-Baselines3 may see two different files in one."""
    path = tmp_path / "model_9.pt"
    torch.save(state_of("rsl_rl"), path, _use_new_zipfile_serialization=False)
    refuse_pickled_code(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data", "{}")
    checkpoints.inspect(path, library="rsl_rl")
    with pytest.raises(RequestError, match="is not plain weights"):
        refuse_pickled_code(path)


def test_a_site_allows_classes_by_name(write: Callable[..., Path]):
    path = write("rsl_rl", state_of("rsl_rl") | {"infos": argparse.Namespace(note="x")})
    error = refused("unsafe_checkpoint", r"asks for 'argparse\.Namespace'", path, "rsl_rl")
    assert error.failure.advice.endswith("SIMYARD_SAFE_GLOBALS=argparse.Namespace")
    refused("unsafe_checkpoint", "argparse", path, "rsl_rl", allowed_globals=("argparse.ArgumentParser",))
    allowed = ("nothing.of.the.kind", "argparse.Namespace")  # names that no checkpoint asks for are not imported
    assert checkpoints.inspect(path, library="rsl_rl", allowed_globals=allowed).outputs == 2
    refused("unsafe_checkpoint", "argparse", path, "rsl_rl")  # and not for the next one


def test_an_allowed_class_must_exist(tmp_path: Path):
    path = tmp_path / "model_1.pt"
    torch.save({"infos": argparse.Namespace()}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "model_2.pt", "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name).replace(b"cargparse\n", b"cargpars_\n"))
    with pytest.raises(RequestError, match=r"'argpars_\.Namespace', which cannot be imported"):
        checkpoints.inspect(tmp_path / "model_2.pt", library="rsl_rl", allowed_globals=("argpars_.Namespace",))


def test_commands_are_not_allowed_even_by_name(write: Callable[..., Path], tmp_path: Path):
    path = write("rsl_rl", {"infos": Hostile(tmp_path / "ran")})
    refused("unsafe_checkpoint", "posix", path, "rsl_rl", allowed_globals=("posix.system", "os.system"))
    assert not (tmp_path / "ran").exists()


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [*LIBRARIES, "legacy"])
def test_a_file_cut_off_anywhere(tmp_path: Path, library: str):
    path = tmp_path / NAMES.get(library, "model_1.pt")
    if library == "legacy":
        torch.save(state_of("rsl_rl"), path, _use_new_zipfile_serialization=False)
    else:
        save(path, library, state_of(library))
    known = "rsl_rl" if library == "legacy" else library
    whole = path.read_bytes()
    checkpoints.inspect(path, library=known)
    for length in {0, 1, 2, 3, 4, 5, 30, len(whole) - 1, *range(7, len(whole), len(whole) // 61)}:
        path.write_bytes(whole[:length])
        refused("checkpoint_truncated", ".", path, known)


@pytest.mark.parametrize("library", ["rsl_rl", "sb3"])
def test_a_damaged_byte_is_noticed(tmp_path: Path, library: str):
    state = state_of(library)
    path = save(tmp_path / NAMES[library], library, state)
    weights = next(iter(tensor for _, tensor in checkpoints.tensors_of("", state) if tensor.dim() == 2))
    data = bytearray(path.read_bytes())
    data[data.index(weights.numpy().tobytes())] ^= 0xFF
    path.write_bytes(data)
    refused("checkpoint_truncated", "is damaged at ", path, library)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_end_in_anything_but_a_clear_refusal(tmp_path: Path, data: st.DataObject):
    """Whatever is overwritten: it loads, or it is refused."""
    form = data.draw(st.sampled_from(["zip", "legacy", "sb3", "nothing"]))
    path = tmp_path / "model_1.pt"
    if form == "nothing":
        head = data.draw(st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x08\x0a"]))
        path.write_bytes(head + data.draw(st.binary()))
    else:
        is_zip = form != "legacy"
        library = "sb3" if form == "sb3" else "rsl_rl"
        save(path, library, {"a": torch.ones(2)}, _use_new_zipfile_serialization=is_zip)
        content = bytearray(path.read_bytes())
        # Not bounded by the length: torch writes addresses into some files, so it differs from one file to the next.
        for position in data.draw(st.lists(st.integers(0, 2**16), min_size=1, max_size=4)):
            content[position % len(content)] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
    try:
        checkpoints.load(path)
    except RequestError as error:
        codes = ("checkpoint_truncated", "not_a_checkpoint", "unsafe_checkpoint", "exported_policy")
        assert error.failure.code in codes


# --- other files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("library", "asked"), itertools.permutations(LIBRARIES, 2))
def test_checkpoints_of_the_wrong_library(write: Callable[..., Path], library: str, asked: str):
    error = refused(
        "checkpoint_of_other_library", f"was written by {library}, .*asks for {asked}", write(library), asked
    )
    assert repr(library) in error.failure.advice


def test_a_checkpoint_of_rsl_rl_before_4(write: Callable[..., Path]):
    old = {"model_state_dict": {"std": torch.ones(1), "actor.0.weight": torch.ones(2, 4)}, "iter": 9, "infos": None}
    refused("checkpoint_of_old_rsl_rl", r"before 4\.0", write("rsl_rl", old), "rsl_rl")
    refused("checkpoint_of_other_library", "written by rsl_rl", write("skrl", old), "skrl")


def write_onnx(path: Path) -> None:
    from onnx import TensorProto, helper, save_model

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("obs", "actions")]
    graph = helper.make_graph([helper.make_node("Tanh", ["obs"], ["actions"])], "policy", ends[:1], ends[1:])
    save_model(helper.make_model(graph, producer_name="pytorch"), path)


def test_exported_policies_are_no_checkpoints(tmp_path: Path):
    script = tmp_path / "policy.pt"
    torch.jit.script(torch.nn.Linear(4, 2)).save(script)
    refused("exported_policy", "TorchScript", script, "rsl_rl")
    onnx = tmp_path / "policy.onnx"
    write_onnx(onnx)
    refused("exported_policy", "ONNX", onnx, "rsl_rl")
    onnx = onnx.rename(tmp_path / "model_1.pt")
    refused("exported_policy", "ONNX", onnx, "rsl_rl")
    program = tmp_path / "policy.pt2"
    with zipfile.ZipFile(program, "w") as archive:  # what torch.export.save leaves, which takes seconds to call
        for name in ("archive_format", "archive_version", "byteorder", "models/model.json", "data/weights/weight_0"):
            archive.writestr(f"policy/{name}", "pt2" if name == "archive_format" else "")
    refused("exported_policy", r"torch\.export", program, "rsl_rl")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"just text", "neither a zip archive nor a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of Git LFS"),
        (pickle.dumps({"a": [1, 2.5, "text"]}, protocol=2), "does not load"),
        (pickle.dumps({"a": [1, 2.5, "text"]}, protocol=5), "torch does not take"),
        (b"\x80\xff\xff\xff", "is no pickle"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "model_1.pt"
    path.write_bytes(content)
    refused("not_a_checkpoint", says, path, "rsl_rl")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (lambda: [torch.ones(2)], "holds a list"),
        (lambda: {}, "holds nothing"),
        (lambda: {"weights": torch.ones(2), 7: 8}, "holds '7', 'weights'"),
        (lambda: {"actor_state_dict": {}, "iter": 3}, "no weights of an actor"),
        (lambda: {"actor_state_dict": 5}, "no weights of an actor"),
    ],
)
def test_other_states(write: Callable[..., Path], state: Callable[[], Any], says: str):
    refused("not_a_checkpoint", says, write("rsl_rl", state()), "rsl_rl")


def test_other_archives_and_no_file_at_all(tmp_path: Path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.csv", "1,2")
    refused("not_a_checkpoint", "archive of other things", path, "sb3")
    save(path, "sb3", state_of("sb3"), data="this is no JSON")
    refused("not_a_checkpoint", "no readable 'data'", path, "sb3")
    refused("not_a_checkpoint", "is no file", tmp_path / "absent.pt", "rsl_rl")
    refused("not_a_checkpoint", "is no file", tmp_path, "rsl_rl")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(write: Callable[..., Path], library: str, value: float):
    state = state_of(library)
    actor = {"rsl_rl": "actor_state_dict", "skrl": "policy", "rl_games": "model"}.get(library)
    weights = state[actor] if actor else state
    name = next(name for name in weights if name.endswith("2.weight"))
    weights[name][0, 0] = value
    refused(
        "checkpoint_not_finite", rf"in \d of its \d+ tensors, the first in '.*{name}'", write(library, state), library
    )


# --- against the task ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("expected", "says"),
    [
        (Expected(inputs=5), "takes 4 observations, and the task gives 5"),
        (Expected(outputs=3), "gives 2 actions, and the task takes 3"),
        (Expected(hidden=(64, 64)), "hidden layers of 32, 16, and the agent configuration says 64, 64"),
        (Expected(inputs=5, outputs=3), "takes 4 .* gives 5; it gives 2 actions"),
    ],
)
def test_a_policy_of_another_shape(write: Callable[..., Path], library: str, expected: Expected, says: str):
    error = refused("checkpoint_wrong_shape", says, write(library), library, expected=expected)
    assert "agent." in error.failure.advice


@pytest.mark.parametrize("library", ["rsl_rl", "skrl", "rl_games"])
def test_a_policy_that_normalizes_otherwise(write: Callable[..., Path], library: str):
    path = write(library)
    expected = Expected(normalized=False)
    refused("checkpoint_wrong_normalizer", "holds statistics .* does not use", path, library, expected=expected)
    state = state_of(library)
    if library == "skrl":
        del state["observation_preprocessor"]
    else:
        key = {"rsl_rl": "actor_state_dict", "rl_games": "model"}[library]
        state[key] = {n: t for n, t in state[key].items() if not n.startswith(("obs_normalizer", "running_mean_std"))}
    path = write(library, state)
    checkpoints.inspect(path, library=library, expected=expected)
    refused("checkpoint_wrong_normalizer", "lacks statistics", path, library, expected=Expected(normalized=True))


AGENTS: dict[str, dict[str, Any]] = {
    "rsl_rl": {"actor": {"hidden_dims": [32, 16], "obs_normalization": True}, "obs_groups": {}, "policy": {}},
    "skrl": {
        "models": {"policy": {"network": [{"name": "net", "layers": [32, 16]}]}},
        "agent": {"state_preprocessor": "RunningStandardScaler"},
    },
    "rl_games": {"params": {"network": {"mlp": {"units": [32, 16]}}, "config": {"normalize_input": True}}},
    "sb3": {"policy_kwargs": {"net_arch": [32, 16]}, "normalize_input": True},
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_configuration_says(library: str):
    env = SimpleNamespace(observation_space=4, action_space=2)
    known = Expected(inputs=4, outputs=2, hidden=(32, 16), normalized=None if library == "sb3" else True)
    assert checkpoints.expected_of(library, env, AGENTS[library]) == known
    assert checkpoints.expected_of(library, vars(env), AGENTS[library]) == known
    manager_based = checkpoints.expected_of(library, SimpleNamespace(observations=SimpleNamespace()), AGENTS[library])
    assert (manager_based.inputs, manager_based.outputs, manager_based.hidden) == (None, None, (32, 16))


def test_sizes_that_only_the_simulator_knows():
    env = {"observation_space": 4, "action_space": 2}
    agent = AGENTS["rsl_rl"]
    assert checkpoints.expected_of("rsl_rl", {**env, "obs_order": ["joint_pos"]}, agent).inputs is None
    assert checkpoints.expected_of("rsl_rl", {**env, "observation_space": [4, 3]}, agent).inputs is None
    groups = {"obs_groups": {"actor": ["policy", "camera"]}}
    assert checkpoints.expected_of("rsl_rl", env, agent | groups).inputs is None
    assert checkpoints.expected_of("rsl_rl", env, agent | {"obs_groups": {"actor": ["policy"]}}).inputs == 4
    assert checkpoints.expected_of("rsl_rl", env, {"actor": {"hidden_dims": [-1, 8]}}).hidden == (4, 8)
    assert checkpoints.expected_of("skrl", env, {"models": {}, "agent": {}}).hidden is None
    late = {"agent": {"observation_preprocessor": None, "state_preprocessor": "RunningStandardScaler"}}
    assert checkpoints.expected_of("skrl", env, late).normalized is False
    both = {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [16]}}}
    assert checkpoints.expected_of("sb3", env, both).hidden == (8,)


def test_an_environment_that_sizes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gymnasium

    (tmp_path / "sizing_env.py").write_text("raise RuntimeError('imported')\ncfg.observation_space = 3 + 4\n")
    (tmp_path / "steady_env.py").write_text("raise RuntimeError('imported')\nif cfg.observation_space == 4: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    env = {"observation_space": 4, "action_space": 2}
    sizes = {}
    for name in ("sizing", "steady"):
        gymnasium.register(f"Test-{name}", entry_point=f"{name}_env:Env")
        try:
            sizes[name] = checkpoints.expected_of("rsl_rl", env, AGENTS["rsl_rl"], f"Test-{name}").inputs
        finally:
            gymnasium.registry.pop(f"Test-{name}")
    assert sizes == {"sizing": None, "steady": 4}


# --- discovery ----------------------------------------------------------------------------------------------------


def found(folder: Path, library: str, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(path.relative_to(folder)) for path in checkpoints.discover(folder, library)]


def test_numbers_sort_as_numbers(tmp_path: Path):
    names = ("model_1500.pt", "model_999.pt", "checkpoints/model_1000.pt")
    others = (
        "exported/policy.pt",
        "exported/model_9999.pt",
        "policy.pt",
        "deep/er/model_7000.pt",
        "model_7000.pth",
        "model_7000.pt.tmp",
        "agent_9000.pt",
    )
    assert found(tmp_path, "rsl_rl", *names, *others) == ["model_999.pt", "checkpoints/model_1000.pt", "model_1500.pt"]
    assert checkpoints.discover(tmp_path / "exported", "rsl_rl") == []
    assert checkpoints.discover(tmp_path / "absent", "rsl_rl") == []


@pytest.mark.parametrize(
    ("library", "names", "others"),
    [
        ("skrl", ["checkpoints/agent_80.pt", "checkpoints/agent_720.pt"], ["checkpoints/best_agent.pt"]),
        ("rl_games", [f"nn/last_x_ep_{end}.pth" for end in ("9_rew_4", "25_rew_-1.5", "25_rew__-1.5_")], ["nn/x.pth"]),
        ("rl_games", ["nn/cartpole.pth"], []),
    ],
    ids=["steps", "epochs", "only the best"],
)
def test_steps_and_epochs_sort_too(tmp_path: Path, library: str, names: list[str], others: list[str]):
    assert found(tmp_path, library, *names, *others) == names


def test_the_final_model_of_sb3_is_the_newest(tmp_path: Path):
    for name, timesteps in (("model.zip", 1000), ("model_200_steps.zip", 200), ("model_1000_steps.zip", 1000)):
        save(tmp_path / name, "sb3", state_of("sb3"), data={"num_timesteps": timesteps})
    names = ["model_200_steps.zip", "model_1000_steps.zip", "model.zip"]
    assert found(tmp_path, "sb3", "package.zip") == names
    (tmp_path / "model.zip").write_bytes(b"PK")
    assert found(tmp_path, "sb3") == names[:2]
    assert found(tmp_path / "alone", "sb3", "model_best.zip") == ["model_best.zip"]
