"""The robot's side: `simyard.policy` with an exported folder."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exported import (
    ACTIONS,
    OBSERVATIONS,
    contract,
    episodes,
    export,
    export_memory,
    make_network,
    of,
    pairs,
    remembering,
    write_formats,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lazy import lazy
from numpy.typing import NDArray

from simyard.policy import PolicyRunner
from simyard.runner.exporting.contract import CONTRACT_FILE, Image, write_contract
from simyard.runner.rl.networks import Input

torch = lazy("torch")

LOWEST, HIGHEST = np.array([-0.5, -np.inf], np.float32), np.array([0.5, 0.25], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    return folder


@pytest.fixture(scope="module")
def policy(folder: Path) -> PolicyRunner:
    return PolicyRunner.load(folder)


def test_importing_it_needs_numpy_and_onnxruntime_alone(folder: Path):
    code = (
        "import json, sys\nfrom simyard.policy import PolicyRunner\n"
        f"import numpy\nPolicyRunner.load({str(folder)!r}).act(numpy.zeros(4))\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    foreign = {"prefect", "torch", "pydantic", "isaaclab", "onnx", "click", "obstore", "gymnasium", "matplotlib"}
    assert not modules & foreign
    assert {"numpy", "onnxruntime", "simyard"} <= modules


def test_it_acts_as_the_network_within_the_limits(policy: PolicyRunner):
    observations, actions = pairs(make_network())
    wanted = np.clip(actions, LOWEST, HIGHEST)
    assert (wanted != actions).any()
    np.testing.assert_allclose(policy.act(observations), wanted, atol=1e-6)
    one = policy.act(observations[3])
    assert one.shape == (ACTIONS,)
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, wanted[3], atol=1e-6)
    np.testing.assert_allclose(policy.act(observations.astype(np.float64)[:, ::-1][:, ::-1]), wanted, atol=1e-6)


def test_it_knows_what_it_sees_and_does(policy: PolicyRunner):
    assert policy.control_period_s == 0.02
    assert {t.name: t.slices for t in policy.observation_terms} == {"joint_pos": ((0, 2),), "joint_vel": ((2, 4),)}
    assert [(t.name, t.joints) for t in policy.action_terms] == [("legs", ("hip", "knee"))]


def test_actions_become_commands(policy: PolicyRunner):
    actions = np.array([[1.0, -1.0], [0.0, 2.0]], np.float32)
    np.testing.assert_allclose(policy.processed(actions), [[0.6, -0.35], [0.1, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(policy.processed(actions[0]), [0.6, -0.35], rtol=1e-6)
    assert actions[0, 0] == 1.0, "what was given stays as it is"
    with pytest.raises(ValueError, match=r"actions have the shape \(3,\), expected \(2,\) or \(batch, 2\)"):
        policy.processed(np.zeros(3, np.float32))


def rewrite(folder: Path, **changes) -> PolicyRunner:
    """Load a folder whose contract says something else of its actions."""
    write_formats(make_network(), folder)
    told = contract(folder)
    write_contract(replace(told, actions=(replace(told.actions[0], **changes),)), folder)
    return PolicyRunner.load(folder)


def test_commands_are_clipped_where_training_clipped_them(tmp_path: Path):
    policy = rewrite(tmp_path, clip=((None, 0.3), (-0.2, None)))
    np.testing.assert_allclose(policy.processed(np.array([1.0, -1.0])), [0.3, -0.2], rtol=1e-6)


def test_a_contract_without_limits_clips_nothing(tmp_path: Path):
    observations, actions = pairs(make_network())
    np.testing.assert_allclose(rewrite(tmp_path, limits=None).act(observations), actions, atol=1e-6)


@pytest.mark.parametrize("missing", ["scale", "offset"])
def test_what_the_contract_does_not_know_is_not_made_up(missing: str, tmp_path: Path):
    policy = rewrite(tmp_path, **{missing: None})
    with pytest.raises(ValueError, match=r"does not know scale and offset of the action terms \['legs'\]"):
        policy.processed(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ([0.0] * 4, "are list, expected a numpy array of floats"),
        (lambda: torch.zeros(4), "are Tensor, expected a numpy array of floats"),
        (np.zeros(4, np.int64), "are an array of int64, expected"),
        (np.zeros(4, complex), "are an array of complex128, expected"),
        (np.zeros(()), r"have the shape \(\), expected \(4,\) or \(batch, 4\)"),
        (np.zeros(5), r"have the shape \(5,\)"),
        (np.zeros((2, 3)), r"have the shape \(2, 3\)"),
        (np.zeros((1, 1, 4)), r"have the shape \(1, 1, 4\)"),
        (np.zeros((0, 4)), r"have the shape \(0, 4\)"),
        (np.array([0, 0, np.nan, 0]), "number 2 of term 'joint_vel' is nan"),
        (np.array([[0, 0, 0, 0], [0, np.inf, 0, 0]]), "number 1 of term 'joint_pos' is inf"),
        (np.array([0, 0, 0, 1e300]), "number 3 of term 'joint_vel' is inf as float32"),
    ],
)
def test_what_is_no_observation_is_refused(given_, message: str, policy: PolicyRunner):
    with pytest.raises(ValueError, match=message):
        policy.act(given_() if callable(given_) else given_)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_array_is_refused_or_answered_in_its_own_rank(data: st.DataObject, policy: PolicyRunner):
    kinds = st.one_of(arrays.floating_dtypes(endianness="?"), arrays.integer_dtypes(), arrays.boolean_dtypes())
    shape = st.one_of(
        st.just((OBSERVATIONS,)),
        st.tuples(st.integers(0, 3), st.just(OBSERVATIONS)),
        arrays.array_shapes(min_dims=0, max_side=5),
    )
    observations = data.draw(arrays.arrays(kinds, shape))
    with np.errstate(over="ignore"):
        accepted = (
            observations.dtype.kind == "f"
            and observations.shape[-1:] == (OBSERVATIONS,)
            and observations.ndim in (1, 2)
            and len(observations) > 0
            and bool(np.isfinite(observations.astype(np.float32)).all())
        )
    before = observations.copy()
    try:
        actions = policy.act(observations)
    except ValueError:
        assert not accepted
    else:
        assert accepted
        assert actions.shape == (*observations.shape[:-1], ACTIONS)
        assert actions.dtype == np.float32
        assert np.isfinite(actions).all()
        assert ((actions >= LOWEST) & (actions <= HIGHEST)).all()
    np.testing.assert_array_equal(observations, before)


def exported(answer, folder: Path) -> None:
    """Export a network that answers so, with the contract of the usual one."""

    class Network(torch.nn.Module):
        def forward(self, observations):
            return answer(observations)

    write_formats(Network().eval(), folder)
    write_contract(contract(folder), folder)


def test_an_answer_that_is_not_finite_never_reaches_the_robot(tmp_path: Path):
    exported(lambda observations: 1.0 / observations[:, :ACTIONS], tmp_path)
    policy = PolicyRunner.load(tmp_path)
    policy.act(np.ones(OBSERVATIONS))
    with pytest.raises(FloatingPointError, match="not finite: one is inf"):
        policy.act(np.zeros(OBSERVATIONS))


def test_threads_may_share_it(policy: PolicyRunner):
    observations, _ = pairs(make_network(), rows=400)
    wanted = policy.act(observations)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(policy.act, observations))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path):
    export(tmp_path)
    model = tmp_path / "policy.onnx"
    model.write_bytes(model.read_bytes().replace(b"Isaac-Test", b"Isaac-Tess"))
    with pytest.raises(ValueError, match=r"policy\.onnx was changed after the export: its SHA-256 is"):
        PolicyRunner.load(tmp_path)
    model.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        PolicyRunner.load(tmp_path)
    (tmp_path / CONTRACT_FILE).unlink()
    with pytest.raises(ValueError, match=f"There is no {CONTRACT_FILE}"):
        PolicyRunner.load(tmp_path)


def test_a_contract_of_another_network_is_refused(tmp_path: Path):
    exported(lambda observations: observations[:, :3], tmp_path)
    with pytest.raises(ValueError, match=r"The network has .*'actions', \(None, 3\).* the contract .*\(None, 2\)"):
        PolicyRunner.load(tmp_path)
    for name in ("policy.onnx", "policy.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    write_contract(contract(tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot load policy\.onnx"):
        PolicyRunner.load(tmp_path)


def test_a_provider_that_is_not_there_is_named(folder: Path):
    with pytest.raises(ValueError, match="no provider 'RobotProvider' here; it has"):
        PolicyRunner.load(folder, providers=["RobotProvider"])
    assert PolicyRunner.load(str(folder), providers=["CPUExecutionProvider"]).control_period_s == 0.02


# --- a policy with a memory -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["lstm", "gru"])
def memory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray, NDArray]:
    """A folder with such a policy, and what it sees and does in 12 steps of two rows; the second begins anew at 7."""
    folder, begun = tmp_path_factory.mktemp(request.param), np.zeros((12, 2), bool)
    begun[0] = begun[7, 1] = True
    network = remembering(lstm=request.param == "lstm")
    export_memory(network, folder)
    observations, actions = episodes(network, begun)
    return folder, observations, np.clip(actions, LOWEST, HIGHEST)


def test_it_keeps_its_memory_and_sets_it_back(memory: tuple[Path, NDArray, NDArray]):
    folder, observations, actions = memory
    policy, alone = PolicyRunner.load(folder), PolicyRunner.load(folder)
    for step, (seen, wanted) in enumerate(zip(observations, actions, strict=True)):
        if step == 7:
            policy.reset([False, True])
            alone.reset()
        np.testing.assert_allclose(policy.act(seen), wanted, atol=1e-6)
        np.testing.assert_allclose(alone.act(seen[1]), wanted[1], atol=1e-6)


def test_torchscript_does_the_same(memory: tuple[Path, NDArray, NDArray]):
    folder, observations, actions = memory
    script = torch.jit.load(folder / "policy.pt")
    for step, (seen, wanted) in enumerate(zip(observations, actions, strict=True)):
        if step == 7:
            script.reset(torch.tensor([False, True]))
        np.testing.assert_allclose(np.clip(script(torch.from_numpy(seen)), LOWEST, HIGHEST), wanted, atol=1e-6)
    with pytest.raises(torch.jit.Error, match="call reset"):
        script(torch.zeros(3, OBSERVATIONS))
    script.reset()
    np.testing.assert_allclose(
        np.clip(script(torch.from_numpy(observations[0, :1])), LOWEST, HIGHEST), actions[0, :1], atol=1e-6
    )


def test_a_memory_is_of_as_many_rows_as_come(memory: tuple[Path, NDArray, NDArray]):
    folder, observations, actions = memory
    policy = PolicyRunner.load(folder)
    policy.act(observations[0])
    with pytest.raises(ValueError, match=r"The memory is of 2 rows, and 1 came: call reset\(\)"):
        policy.act(observations[0, 0])
    for rows in ([True], [1, 0], np.array([[True, False]])):
        with pytest.raises(ValueError, match="expected a truth value for each of the 2"):
            policy.reset(rows)
    policy.reset()
    np.testing.assert_allclose(policy.act(observations[0, 0]), actions[0, 0], atol=1e-6)


def test_what_is_refused_leaves_the_memory_as_it_was(memory: tuple[Path, NDArray, NDArray]):
    folder, observations, actions = memory
    policy = PolicyRunner.load(folder)
    policy.act(observations[0])
    with pytest.raises(ValueError, match="not finite"):
        policy.act(np.full((2, OBSERVATIONS), np.nan))
    np.testing.assert_allclose(policy.act(observations[1]), actions[1], atol=1e-6)


def test_one_without_a_memory_has_nothing_to_forget(policy: PolicyRunner):
    observations, _ = pairs(make_network(), rows=3)
    before = policy.act(observations)
    policy.reset()
    policy.reset([True, False, True])
    np.testing.assert_array_equal(policy.act(observations), before)


# --- a policy that sees images ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> PolicyRunner:
    from network import Look

    folder = tmp_path_factory.mktemp("looking")
    camera = Input(name="camera", groups=("critic",), shape=(1, 8, 8), layout="NCHW")
    told = contract(write_formats(of(Look(OBSERVATIONS, 1, ACTIONS), camera), folder))
    policy_group, critic = told.observation_groups
    groups = (policy_group, replace(critic, size=64, terms=(replace(critic.terms[0], size=64, slices=None),)))
    image = Image(name="camera", group="critic", shape=(None, 1, 8, 8), layout="NCHW", lowest=0.0, highest=1.0)
    images = replace(told, schema_version=2, normalizer=None, observation_groups=groups, images=(image,))
    write_contract(images, folder)
    return PolicyRunner.load(folder)


def test_images_come_by_the_name_of_their_input(looking: PolicyRunner):
    seen = {"obs": np.ones((3, OBSERVATIONS)), "camera": np.random.default_rng(0).random((3, 1, 8, 8))}
    actions = looking.act(seen)
    assert actions.shape == (3, ACTIONS)
    one = looking.act({name: rows[1] for name, rows in seen.items()})
    np.testing.assert_allclose(one, actions[1], atol=1e-6)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (np.ones(OBSERVATIONS), r"has several inputs: give a mapping of \['obs', 'camera'\]"),
        ({"obs": np.ones(OBSERVATIONS)}, r"are \['obs'\], expected \['obs', 'camera'\]"),
        ({"obs": np.ones(4), "camera": np.ones((8, 8))}, r"shape \(8, 8\), expected \(1, 8, 8\) or \(batch, 1, 8, 8\)"),
        ({"obs": np.ones(4), "camera": np.ones((1, 8, 8), np.uint8)}, "are an array of uint8, expected"),
        ({"obs": np.ones((2, 4)), "camera": np.ones((3, 1, 8, 8))}, "expected as many rows of each"),
        ({"obs": np.ones(4), "camera": np.ones((1, 1, 8, 8))}, "expected as many rows of each"),
        ({"obs": np.ones(4), "camera": np.full((1, 8, 8), np.nan)}, r"'camera' is nan at \[0, 0, 0\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(given_, message: str, looking: PolicyRunner):
    with pytest.raises(ValueError, match=message):
        looking.act(given_)
