"""Exports as proof: the files, parity with recorded pairs, the contract's reader, and the checklist."""

import json
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exported import (
    ACTIONS,
    DIVISOR,
    FUNCTIONS,
    MEAN,
    OBSERVATIONS,
    contract,
    episodes,
    export,
    make_network,
    of,
    pairs,
    remembering,
    term,
    write_formats,
)
from lazy import lazy
from numpy.typing import NDArray

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.specs import Answer, JointLimits, Robot
from simyard.core.stages import StageRun, Stages, WidenStep
from simyard.runner.exporting import formats
from simyard.runner.exporting.checks import CHECKS, Checklist, check
from simyard.runner.exporting.contract import (
    CONTRACT_FILE,
    Port,
    Statistics,
    parse_contract,
    read_contract,
    write_contract,
)
from simyard.runner.exporting.evidence import (
    ActionSample,
    Evidence,
    HistorySample,
    LongRun,
    NormalizedSample,
    SecondSimulator,
    Thresholds,
    measure_actions,
    measure_history,
    measure_normalizer,
)
from simyard.runner.exporting.parity import Difference, Load, Parity, check_parity
from simyard.runner.exporting.verdict import Status
from simyard.runner.rl.networks import Input

onnx = lazy("onnx")
torch = lazy("torch")

# --- formats ----------------------------------------------------------------------------------------------------------


def test_an_onnx_file_says_what_it_is(tmp_path: Path):
    write_formats(make_network(), tmp_path)
    model = onnx.load(tmp_path / "policy.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", formats.OPSET)]
    assert {p.key: p.value for p in model.metadata_props} == {"task": "Isaac-Test", "library": "rsl_rl"}
    sizes = {"obs": OBSERVATIONS, "actions": ACTIONS}
    expected = tuple((Port(name=name, shape=(None, size), dtype="float32"),) for name, size in sizes.items())
    assert formats.onnx_ports(tmp_path / "policy.onnx") == expected
    assert str(Path(__file__).parents[1]).encode() not in (tmp_path / "policy.onnx").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"policy.onnx", "policy.pt"}


def test_the_same_network_gives_the_same_onnx_file(tmp_path: Path):
    for name in ("one", "two"):
        formats.write_onnx(of(make_network()), tmp_path / name, {"b": "2", "a": "1"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_network_of_60_megabytes_stays_one_file(tmp_path: Path):
    network = make_network(hidden=3900)
    formats.write_onnx(of(network), tmp_path / "policy.onnx", {})
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]
    assert (tmp_path / "policy.onnx").stat().st_size > 60e6
    model = onnx.load(tmp_path / "policy.onnx", load_external_data=False)
    assert not [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def test_exporting_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_formats(make_network(), tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda network: network.train(), "training mode"),
        (lambda network: network.double(), r"torch.float64 on cpu.*expected torch.float32"),
    ],
)
def test_networks_that_are_not_ready_are_refused(spoil, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        write_formats(spoil(make_network()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_onnx_has_not_is_named(tmp_path: Path):
    class Bessel(torch.nn.Module):
        def forward(self, observations):
            return torch.special.bessel_j0(observations)

    with pytest.raises(RequestError, match="bessel_j0"):
        formats.write_onnx(of(Bessel().eval()), tmp_path / "policy.onnx", {})


# --- parity -----------------------------------------------------------------------------------------------------------


def parity_of(folder: Path, observations, actions, **options) -> Parity:
    """Parity with pairs of which each is an episode of its own."""
    given, wanted = observations[None], actions[None]
    return check_parity(folder, of(None), {"obs": given}, wanted, np.ones(wanted.shape[:2], bool), **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    return folder


def test_both_formats_give_the_networks_actions(exported: Path):
    parity = parity_of(exported, *pairs(make_network(), rows=150))
    assert parity.passed, parity.failures
    assert [(load.format, load.loads, load.error) for load in parity.loads] == [
        ("onnx", True, None),
        ("torchscript", True, None),
    ]
    assert [(d.format, d.batch, d.rows) for d in parity.differences] == [
        ("onnx", 1, 64),
        ("onnx", 64, 150),
        ("torchscript", 1, 64),
        ("torchscript", 64, 150),
    ]
    assert max(d.largest for d in parity.differences) < 1e-5
    assert parity.largest_action == pytest.approx(np.abs(pairs(make_network())[1]).max())
    assert Parity.from_json(json.loads(json.dumps(parity.to_json()))) == parity


def test_a_difference_of_two_ten_thousandths_fails(tmp_path: Path):
    write_formats(make_network(shift=2e-4), tmp_path)
    parity = parity_of(tmp_path, *pairs(make_network()))
    assert [d.largest for d in parity.differences] == [pytest.approx(2e-4, rel=0.01)] * 4
    with pytest.raises(WorkloadError, match=r"policy\.onnx at batch 1 differs .* by 0\.0002; allowed: 0\.0001") as told:
        parity.require()
    assert told.value.failure.code == "export_parity"
    assert "policy.pt at batch 64 differs" in told.value.failure.message


def test_a_difference_below_the_limit_passes(tmp_path: Path):
    write_formats(make_network(shift=5e-5), tmp_path)
    parity_of(tmp_path, *pairs(make_network())).require()


def test_actions_that_are_not_numbers_fail(exported: Path):
    observations, actions = pairs(make_network())
    actions = actions.copy()
    actions[69] = math.nan  # not among the 64 rows at batch 1
    parity = parity_of(exported, observations, actions)
    assert [(d.batch, d.largest is None) for d in parity.differences] == [(1, False), (64, True)] * 2
    assert "policy.onnx at batch 64 gives actions that are not numbers" in parity.failures[0]
    json.dumps(parity.to_json(), allow_nan=False)


def test_a_network_that_looks_at_the_whole_batch_is_found_out(tmp_path: Path):
    class Batch(torch.nn.Module):
        def forward(self, observations):
            return observations - observations.mean(dim=0, keepdim=True)

    network = Batch().eval()
    write_formats(network, tmp_path)
    parity = parity_of(tmp_path, *pairs(network, rows=64))
    assert [(d.batch, d.largest > 0.1) for d in parity.differences] == [(1, True), (64, False)] * 2


def test_files_that_do_not_load_are_reported_with_the_reason(exported: Path, tmp_path: Path):
    model = onnx.load(exported / "policy.onnx")
    onnx.save(model, tmp_path / "policy.onnx", save_as_external_data=True, location="policy.data", size_threshold=0)
    (tmp_path / "policy.pt").write_bytes(b"no archive")
    parity = parity_of(tmp_path, *pairs(make_network()))
    assert [load.loads for load in parity.loads] == [False, False]
    assert "policy.data" in str(parity.loads[0].error), "the file alone, whatever lies beside it"
    with pytest.raises(WorkloadError, match=r"policy\.onnx does not run in a clean interpreter: .*policy\.pt does not"):
        parity.require()


def test_a_missing_interpreter_is_reported(exported: Path):
    parity = parity_of(exported, *pairs(make_network()), python="/nowhere/python")
    assert "/nowhere/python" in str(parity.loads[0].error)


def test_another_number_of_actions_is_reported(exported: Path):
    observations, actions = pairs(make_network())
    parity = parity_of(exported, observations, actions[:, :1])
    assert parity.failures[0] == "policy.onnx at batch 1: it gives 2 actions for each observation, the library 1."


def test_too_few_pairs_prove_nothing(exported: Path):
    with pytest.raises(ValueError, match="64 rows or more"):
        parity_of(exported, *pairs(make_network(), rows=63))


@pytest.fixture(scope="module")
def begun() -> NDArray[np.bool_]:
    """When episodes begin in 30 steps of three environments: two of them have a second one, at other steps."""
    begun = np.zeros((30, 3), bool)
    begun[0] = begun[12, 1] = begun[20, 2] = True
    return begun


def test_a_memory_is_compared_over_whole_episodes(begun: NDArray[np.bool_], tmp_path: Path):
    network = remembering(lstm=True)
    write_formats(network, tmp_path)
    observations, actions = episodes(network, begun)
    parity = check_parity(tmp_path, network, {"obs": observations}, actions, begun)
    assert parity.passed, parity.failures
    assert (parity.resets, max(part.largest for part in parity.differences) < 1e-5) == (2, True)
    assert [(part.batch, part.rows) for part in parity.differences] == [(1, 30), (64, 90)] * 2
    assert all(load.latency_ms > 0 for load in parity.loads)


@pytest.mark.long  # whole episodes are compared in the test above; each takes two interpreters
@pytest.mark.parametrize("lstm", [True, False], ids=["lstm", "gru"])
def test_a_memory_that_is_not_set_back_fails(lstm: bool, begun: NDArray[np.bool_], tmp_path: Path):
    network = remembering(lstm=lstm)
    write_formats(network, tmp_path)
    observations, actions = episodes(network, begun)
    check_parity(tmp_path, network, {"obs": observations}, actions, begun).require()
    wrong = episodes(network, begun & (np.arange(len(begun)) == 0)[:, None])[1]
    found = check_parity(tmp_path, network, {"obs": observations}, wrong, begun)
    assert len(found.failures) == 4, "at batch 1 too: it takes an environment with a reset"


def test_a_memory_has_ports_in_both_files(tmp_path: Path):
    network = remembering(lstm=True)
    write_formats(network, tmp_path)
    taken, given = formats.onnx_ports(tmp_path / "policy.onnx")
    assert [(port.name, port.shape) for port in (*taken, *given)] == [
        ("obs", (None, 4)), ("h_in", (2, None, 8)), ("c_in", (2, None, 8)),
        ("actions", (None, 2)), ("h_out", (2, None, 8)), ("c_out", (2, None, 8)),
    ]  # fmt: skip
    script, rows = torch.jit.load(tmp_path / "policy.pt"), torch.ones(3, 4)
    first, second = script(rows), script(rows)
    assert not torch.equal(first, second)
    script.reset(torch.tensor([False, True, False]))
    third = script(rows)
    torch.testing.assert_close(third[1], first[1])
    assert not torch.allclose(third[0], first[0])
    with pytest.raises(torch.jit.Error, match="call reset"):
        script(rows[:1])
    script.reset()
    torch.testing.assert_close(script(rows[:1]), first[:1])


@pytest.mark.long  # on the simulator it is shown by test_cameras_of_tasks.py
def test_images_have_an_input_of_their_own(tmp_path: Path):
    from network import Look

    camera = Input(name="camera", groups=("camera",), shape=(3, 8, 8), layout="NCHW")
    network = of(Look(4, 3, 2), camera)
    write_formats(network, tmp_path)
    taken, _ = formats.onnx_ports(tmp_path / "policy.onnx")
    assert [(port.name, port.shape) for port in taken] == [("obs", (None, 4)), ("camera", (None, 3, 8, 8))]
    numbers = np.random.default_rng(0)
    seen = {each.name: numbers.normal(size=(10, 7, *each.shape)).astype(np.float32) for each in network.inputs}
    with torch.no_grad():
        actions = network.module(*(torch.from_numpy(given).flatten(0, 1) for given in seen.values())).numpy()
    parity = check_parity(tmp_path, network, seen, actions.reshape(10, 7, 2), np.ones((10, 7), bool))
    assert parity.passed, parity.failures
    assert parity.resets is None


# --- contract ---------------------------------------------------------------------------------------------------------


def test_a_contract_is_read_as_it_was_written(exported: Path):
    read = read_contract(exported / CONTRACT_FILE)
    assert read == contract(exported)
    assert [(t.name, t.slices) for t in read.input_terms] == [("joint_pos", ((0, 2),)), ("joint_vel", ((2, 4),))]
    assert read.file("torchscript").name == "policy.pt"


def set_at(data, path: str, value):
    *folders, last = path.split(".")
    for name in folders:
        data = data[int(name)] if isinstance(data, list) else data[name]
    data[int(last) if isinstance(data, list) else last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 3, "schema_version is 3; this simyard reads 1, 2"),
        ("extra", 1, "contract has the unknown field 'extra'"),
        ("checkpoint", {"sha256": "a" * 64}, r"contract\.checkpoint lacks the field 'iteration'"),
        ("task", 3, r"contract\.task is 3, expected str"),
        ("decimation", True, r"contract\.decimation is True, expected int"),
        ("decimation", 4.0, r"contract\.decimation is 4.0, expected int"),
        ("actions", {}, r"contract\.actions is {}, expected list"),
        ("actions.0.limits.0", [1.0], r"limits\[0\] has 1 items, expected 2"),
        ("actions.0.limits.0", [0.5, -0.5], "bounds .* wrong way round"),
        ("actions.0.scale", [1.0], "'legs': scale has 1 values, expected 2"),
        ("actions.0.stop", 1, "gives 2 actions, but its action terms have 1|has 2 values, expected 1"),
        ("actions.0.start", 1, "but 0 actions stand before it"),
        ("control_period_s", 0.01, "4 steps of 0.005 s make 0.02"),
        ("input.shape", [1, 4], r"input\.shape is \[1, 4\], expected \[null, numbers\]"),
        ("output.dtype", "float16", "expected 'float32'"),
        ("observation_groups.0.size", 5, "has 5 numbers, but its terms have"),
        ("observation_groups.0.start", 1, "starts at 1, but 0 numbers stand before it"),
        ("observation_groups.0.terms.1.slices", [[1, 3]], r"do not cover \[0, 4\) once"),
        ("observation_groups.0.terms.1.slices", None, "the network sees it, so it needs slices"),
        ("observation_groups.0.terms.1.slices", [[2, 3]], "slices of 1 numbers, but its size is 2"),
        ("normalizer.mean", [0.0], r"normalizer\.mean has 1 values, expected 4"),
        ("normalizer.divisor.2", 0, "has a 0"),
        ("files.0.name", "../policy.onnx", "not a file beside the contract"),
        ("files.0.sha256", "abc", "not a SHA-256"),
    ],
)
def test_contracts_that_cannot_be_true_are_refused(path: str, value, message: str, exported: Path):
    data = json.loads((exported / CONTRACT_FILE).read_text())
    parse_contract(data)
    set_at(data, path, value)
    with pytest.raises(ValueError, match=message):
        parse_contract(data)


IMAGE = {
    "name": "camera", "group": "critic", "shape": [None, 1, 1, 5], "dtype": "float32", "layout": "NCHW",
    "lowest": 0.0, "highest": 1.0,
}  # fmt: skip
STATE = {
    "input": "h_in", "output": "h_out", "shape": [2, None, 8], "dtype": "float32", "initial": 0.0, "reset": "episode"
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [IMAGE], "states": [STATE]}, None),
        ({"schema_version": 1, "images": [IMAGE]}, "schema_version is 1, which has neither images nor states"),
        ({"images": [IMAGE | {"shape": [None, 1, 5]}]}, r"its shape is \[None, 1, 5\]"),
        ({"images": [IMAGE | {"shape": [None, 1, 2, 5]}]}, "has 10 numbers, but its group has 5"),
        ({"images": [IMAGE | {"group": "eyes"}]}, "of the group 'eyes', which is not among"),
        ({"images": [IMAGE | {"layout": "HWC"}]}, "layout is 'HWC', expected one of"),
        ({"images": [IMAGE | {"lowest": 2.0}]}, r"range \[2.0, 1.0\] is the wrong way round"),
        ({"images": [IMAGE | {"dtype": "uint8"}]}, "'camera' is of 'uint8', expected 'float32'"),
        ({"states": [STATE | {"shape": [2, 1, 8]}]}, r"expected \[layers, null, numbers\]"),
        ({"states": [STATE | {"input": "obs"}]}, r"the inputs have the names \['obs', 'obs'\]"),
        ({"states": [STATE | {"reset": "never"}]}, "reset is 'never', expected one of"),
    ],
)
def test_a_contract_with_images_and_states(changes, message: str | None, exported: Path):
    data = json.loads((exported / CONTRACT_FILE).read_text()) | {"schema_version": 2} | changes
    if message is None:
        read = parse_contract(data)
        assert [port.name for port in (*read.inputs, *read.outputs)] == ["obs", "camera", "h_in", "actions", "h_out"]
        assert [group.name for group in read.seen_groups] == ["policy", "critic"]
        assert parse_contract(read.to_json()) == read
        return
    with pytest.raises(ValueError, match=message):
        parse_contract(data)


def test_a_plain_contract_is_as_version_1_has_it(exported: Path):
    """An older simyard reads it."""
    data = json.loads((exported / CONTRACT_FILE).read_text())
    assert data["schema_version"] == 1
    assert not {"images", "states"} & set(data)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "schema_version is None"), ('{"a": NaN}', "NaN is not a number")]
)
def test_files_that_are_no_contract_are_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / CONTRACT_FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_contract(tmp_path / CONTRACT_FILE)


def test_a_contract_that_contradicts_itself_is_not_written(exported: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="control_period_s"):
        write_contract(replace(contract(exported), decimation=1), tmp_path)
    assert not list(tmp_path.iterdir())


# --- checklist --------------------------------------------------------------------------------------------------------

PROOF = Parity(
    limit=1e-4,
    largest_action=1.0,
    loads=(
        Load(format="onnx", loads=True, error=None, runtime="onnxruntime 1.31.1"),
        Load(format="torchscript", loads=True, error=None, runtime="torch 2.11.0"),
    ),
    differences=(Difference(format="onnx", batch=1, rows=64, largest=2e-7, problem=None),),
)
NO_PROOF = replace(PROOF, differences=(replace(PROOF.differences[0], largest=0.5),))
NO_LOAD = replace(PROOF, loads=(replace(PROOF.loads[0], loads=False, error="no magic"),))
SAMPLE = NormalizedSample(
    mean=(0.1, -0.2, 0.3, 0.0), standard_error=(0.05, 0.05, 0.05, 0.05), steps=300, environments=64
)
ACTIONS_SENT = ActionSample(lowest=(-9.0, -2.0), highest=(9.0, 9.0), largest_step=(0.1, 0.2))
# Sent to 0.5 * [-0.5, 0.5] + 0.1 and 0.25 * [-2, 0.25] - 0.1, by up to 0.05 and 0.05 in 0.02 s.
LIMITS = {
    "hip": JointLimits(position=(-0.16, 0.36), max_velocity=2.51),
    "knee": JointLimits(position=(-0.61, 0.0), max_velocity=2.51),
}
RUN = LongRun(steps=3000, episode_steps=300, environments=16, non_finite=0, early_terminations=0)
OTHER = SecondSimulator(
    reference_physics="newton",
    physics="physx",
    episodes=100,
    reference_return=10.0,
    mean_return=9.0,
    drop_interval=(0.5, 1.5),
)  # fmt: skip
BETTER = replace(OTHER, mean_return=12, drop_interval=(-3, -1))


ROBOT = Robot(sensors=("joint_encoders",), noise={"joint_pos": 0.01, "joint_vel": 0.1}, delay_s=(0.0, 0.02))
TERMS = {
    "alive": {"function": "mdp:is_alive", "weight": 1.0, "params": {}},
    "effort": {"function": "isaaclab.envs.mdp.rewards:joint_torques_l2", "weight": -0.1, "params": {}},
}
NOISE = {
    "joint_pos": {"type": "GaussianNoiseCfg", "std": 0.01},
    "joint_vel": {"type": "UniformNoiseCfg", "n_min": -1, "n_max": 1},
}


def good(exported: Path, **changes) -> Evidence:
    return replace(
        Evidence(
            contract=with_terms(
                contract(exported), lambda each: {"noise": NOISE.get(each.name), "delay_steps": (0, 1)}
            ),
            parity=PROOF,
            reward_contributions={"alive": 6.0, "effort": -3.0, "upright": 1.0},
            reward_terms=TERMS,
            terminations=("time_out", "fallen"),
            actuator_delays={"robot.legs": (0.0, 0.005)},
            robot=ROBOT,
            normalized=SAMPLE,
            actions=ACTIONS_SENT,
            action_limits=LIMITS,
            long_run=RUN,
            second_simulator=OTHER,
            curriculum={},
            randomization={"push": {"mode": "interval", "function": "mdp:push", "params": {"range": [-1, 1]}}},
        ),
        **changes,
    )


def with_terms(told, change):
    """The same contract with other terms in the group of the policy: `change` gives a term's fields."""
    policy, *others = told.observation_groups
    terms = tuple(replace(each, **change(each)) for each in policy.terms)
    return replace(told, observation_groups=(replace(policy, terms=terms), *others))


def seeing(**changes):
    """The same of a policy whose every observation has these fields."""
    return lambda e: replace(e, contract=with_terms(e.contract, lambda _: changes))


def of_robot(**changes):
    """The same for another robot."""
    return lambda e: replace(e, robot=replace(e.robot, **changes))


def both(*changes):
    """One change after another."""

    def changed(evidence):
        for change in changes:
            evidence = change(evidence)
        return evidence

    return changed


def having(**changes):
    return lambda evidence: replace(evidence, **changes)


def in_stage(why="reached", stage=1, levels=()):
    """The same of a policy of a training in stages."""
    widened = tuple(
        WidenStep(iteration=level, level=level, value=None, ranges={"env.push": (-float(level), float(level))})
        for level in levels
    )
    run = StageRun(
        stage=stage, of=2, name="walk", kind="train", start=None, began=0, began_at="", goal="x >= 4", ended=9,
        why=why, value=4.5, widened=widened or None, widen_steps=2,
    )  # fmt: skip
    return having(stages=Stages(runs=(run,)))


def about(change, **changes):
    """The same of another contract: `change` gives its fields."""
    return lambda e: replace(e, contract=replace(e.contract, **change(e.contract)), **changes)


def with_command(command: str | None, **limits):
    """The same with another kind of command, and limits of both joints."""
    given = {joint: JointLimits(**limits) for joint in ("hip", "knee")}
    return about(lambda c: {"actions": (replace(c.actions[0], command=command),)}, action_limits=given)


without_normalizer = about(lambda c: {"normalizer": None}, normalized=None)
without_critic = about(lambda c: {"observation_groups": c.observation_groups[:1]})
sees_critic = about(lambda c: {"observation_groups": tuple(replace(g, start=0) for g in c.observation_groups)})
sees_more = about(
    lambda c: {"observation_groups": (c.observation_groups[0], replace(c.observation_groups[1], name="more", start=4))}
)
"""Sees a second group, as its critic does."""
unnamed = about(
    lambda c: {
        "observation_groups": tuple(
            replace(group, names_known=False, terms=(term(None, 0, group.size),)) for group in c.observation_groups
        ),
        "actions": tuple(replace(a, name=None, type=None, command=None, joints=None, offset=None) for a in c.actions),
    },
    reward_contributions=None,
    reward_terms=None,
    actuator_delays=None,
    curriculum=None,
    randomization=None,
)
"""The same of a direct task, which names nothing."""
PASS, FAIL, HUMAN = Status.PASS, Status.FAIL, Status.HUMAN
SEEN = HistorySample(rows={"joint_pos": 90, "joint_vel": 90}, wrong={"joint_pos": 0, "joint_vel": 0})
blind = of_robot(sensors=None)
JUDGED = [
    ("rewards", having(), PASS, "'alive' makes 60%"),
    ("rewards", having(reward_contributions={"alive": 9.0, "effort": -1.0}), FAIL, "'alive' makes 90%.*80% is allowed"),
    ("rewards", having(reward_contributions={"alive": 1.0, "effort": -9.0}), FAIL, "'effort' makes 90%"),
    ("rewards", having(reward_contributions={"alive": math.nan}), FAIL, "not a number"),
    ("rewards", having(reward_contributions={}), FAIL, "No reward term"),
    ("rewards", having(reward_contributions=None), HUMAN, "not measured"),
    ("rewards", unnamed, HUMAN, "in its own code"),
    ("reward-shape", having(), HUMAN, r"alive \(1.0\), effort \(-0.1\). Episodes end by time_out, fallen"),
    ("reward-shape", unnamed, HUMAN, "in its own code"),
    ("mechanism-cost", having(), PASS, "'effort' make the policy pay"),
    ("mechanism-cost", having(reward_terms={"alive": TERMS["alive"]}), HUMAN, "No reward term is known to cost"),
    ("mechanism-cost", having(reward_contributions={"effort": 0.0}), FAIL, "nothing was paid"),
    ("mechanism-cost", unnamed, HUMAN, "in its own code"),
    ("observations", having(), PASS, r"'joint_pos', 'joint_vel': the robot's sensors \(joint_encoders\) measure all"),
    ("observations", blind, HUMAN, "nothing that only the critic has. It takes joint_encoders"),
    ("observations", of_robot(sensors=("imu",)), FAIL, r"'joint_pos', 'joint_vel', which the robot's sensors \(imu\)"),
    ("observations", of_robot(sensors=("joint_pos", "joint_vel")), PASS, "measure all of it"),
    ("observations", both(blind, seeing(function=f"{FUNCTIONS}base_lin_vel")), FAIL, "truth, which no robot measures"),
    ("observations", seeing(function=f"{FUNCTIONS}base_lin_vel"), FAIL, "do not measure"),
    (
        "observations",
        both(of_robot(sensors=("base_velocity",)), seeing(function=f"{FUNCTIONS}base_lin_vel")),
        PASS,
        "all",
    ),
    ("observations", both(blind, seeing(function=f"{FUNCTIONS}last_action")), PASS, "none of it is measured"),
    (
        "observations",
        both(blind, seeing(function="mine.mdp:base_ang_vel")),
        HUMAN,
        "functions that are not Isaac Lab's",
    ),
    ("observations", sees_critic, FAIL, "'contact_forces', which only the critic"),
    ("observations", both(blind, sees_critic, having(critic_groups=())), HUMAN, "'contact_forces', which the group"),
    ("observations", both(sees_critic, having(critic_groups=())), FAIL, "'contact_forces', which the robot's sensors"),
    ("observations", having(critic_groups=("policy", "critic")), PASS, "measure all"),
    ("observations", having(critic_groups=("more",)), PASS, "measure all"),
    ("observations", both(blind, sees_more, having(critic_groups=("policy", "more"))), HUMAN, "which the group"),
    ("observations", unnamed, HUMAN, "does not name its observations"),
    ("observations", lambda e: unnamed(without_critic(e)), HUMAN, "in the task's own code"),
    ("observation-noise", having(), PASS, "'joint_pos', 'joint_vel' were trained with the robot's noise or more"),
    (
        "observation-noise",
        of_robot(noise={"joint_pos": 0.02}),
        FAIL,
        "'joint_pos' was trained .* 0.01, the robot has 0.02",
    ),
    ("observation-noise", of_robot(noise={"joint_pos": 0.01}), HUMAN, "Of 'joint_vel' .* the robot's is not given"),
    (
        "observation-noise",
        of_robot(noise={}),
        HUMAN,
        "noise to everything measured.*'joint_pos' 0.01, 'joint_vel' 0.577",
    ),
    (
        "observation-noise",
        both(of_robot(noise={}), seeing(noise=None)),
        HUMAN,
        "added no noise to 'joint_pos', 'joint_vel'",
    ),
    ("observation-noise", seeing(noise=None), FAIL, "standard deviation of 0, the robot has 0.01"),
    ("observation-noise", seeing(noise={"type": "Own"}), HUMAN, "training's is not known"),
    ("observation-noise", seeing(function=f"{FUNCTIONS}last_action"), PASS, "nothing that is measured"),
    ("observation-noise", unnamed, HUMAN, "no noise model"),
    ("delays", having(), PASS, "0 to 25 ms longer than the physics; the robot takes 0 to 20 ms"),
    ("delays", of_robot(delay_s=(0.0, 0.03)), FAIL, "the robot takes 0 to 30 ms"),
    ("delays", of_robot(delay_s=None), HUMAN, "0 to 25 ms"),
    ("delays", both(seeing(delay_steps=None), having(actuator_delays={})), FAIL, "delayed neither"),
    ("delays", unnamed, HUMAN, "as far as its configuration says"),
    ("history", having(), PASS, "newest sample of every observation alone"),
    ("history", both(seeing(history_length=2), having(history=SEEN)), PASS, "'joint_pos' 90, 'joint_vel' 90"),
    (
        "history",
        both(seeing(history_length=2), having(history=replace(SEEN, wrong={"joint_pos": 0, "joint_vel": 3}))),
        FAIL,
        "'joint_vel' is not what was seen before.*3 of 90 steps",
    ),
    ("history", seeing(history_length=2), HUMAN, "was not seen"),
    ("history", unnamed, HUMAN, "in its own code"),
    ("normalizer", having(), PASS, r"observation 2 \('joint_vel'\) is 0.3 standard deviations, .* 2.15 is allowed"),
    ("normalizer", having(normalized=replace(SAMPLE, mean=(0, -3.2, 0, 0))), FAIL, r"1 \('joint_pos'\) is -3.2"),
    ("normalizer", having(normalized=replace(SAMPLE, mean=(0, 0, 0, math.nan))), FAIL, "is nan"),
    ("normalizer", having(normalized=replace(SAMPLE, mean=(2.5, 0, 0, 0))), HUMAN, "is 2.5 standard deviations"),
    ("normalizer", having(normalized=replace(SAMPLE, standard_error=(0, 0, 0, 3.0))), HUMAN, "no better than by 3"),
    ("normalizer", having(normalized=None), HUMAN, "not measured"),
    ("normalizer", having(parity=None), HUMAN, "Parity"),
    ("normalizer", having(parity=NO_PROOF), FAIL, "differs"),
    ("normalizer", without_normalizer, PASS, "parity proves that none is missing"),
    ("action-scale", having(), PASS, r"'hip' is sent to \[-0.15, 0.35\].* by up to 2.5/s"),
    ("action-scale", having(action_limits=None), HUMAN, "No limits"),
    ("action-scale", having(action_limits={}), HUMAN, "No limits"),
    ("action-scale", having(action_limits={**LIMITS, "tail": JointLimits(max_velocity=1.0)}), HUMAN, "'tail' is not"),
    ("action-scale", having(action_limits={"hip": LIMITS["hip"]}), HUMAN, "'knee' has no limits"),
    ("action-scale", having(action_limits={**LIMITS, "hip": JointLimits()}), HUMAN, "'hip' has no limits"),
    ("action-scale", with_command("position", position=(-0.1, 0.5)), FAIL, r"'hip' is sent to \[-0.15, 0.35\]"),
    ("action-scale", with_command("position", max_velocity=2.4), FAIL, "'knee' is told to move by up to 2.5/s"),
    ("action-scale", lambda e: having(actions=None)(e), HUMAN, "'knee' have no bounds and were not measured"),
    ("action-scale", with_command("velocity", max_velocity=0.7), PASS, "'knee' is told to move by up to 0.6/s"),
    ("action-scale", with_command("velocity", max_velocity=0.5), FAIL, "0.5/s is allowed"),
    ("action-scale", with_command("effort", max_effort=0.7), PASS, "driven with up to 0.6,"),
    ("action-scale", with_command("effort", max_effort=0.5), FAIL, "0.5 is allowed"),
    ("action-scale", with_command("effort", max_velocity=0.5), HUMAN, "max_velocity cannot be told from effort"),
    ("action-scale", with_command(None, position=(-9, 9)), HUMAN, "cannot be told from unknown"),
    ("action-scale", unnamed, HUMAN, "is not known"),
    ("long-run", having(), PASS, "16 environments ran 3000 steps, 10 times"),
    ("long-run", having(long_run=replace(RUN, non_finite=1)), FAIL, "1 numbers"),
    ("long-run", having(long_run=replace(RUN, early_terminations=2)), FAIL, "2 early"),
    ("long-run", having(long_run=replace(RUN, steps=2999)), HUMAN, "3000 steps are needed"),
    ("long-run", having(long_run=None), HUMAN, "No long run"),
    ("formats", having(), HUMAN, "onnxruntime 1.31.1 and torch 2.11.0 load them alone.*computer was not tried"),
    ("formats", having(parity=NO_PROOF), FAIL, "policy.onnx at batch 1 differs"),
    ("formats", having(parity=NO_LOAD), FAIL, "policy.onnx does not run in a clean interpreter: no magic"),
    ("formats", having(parity=None), HUMAN, "not loaded"),
    ("formats", having(parity=replace(PROOF, resets=0)), HUMAN, "whether the memory is set back was not seen"),
    ("second-simulator", having(), PASS, "drops by 10.0%"),
    ("second-simulator", having(second_simulator=BETTER), PASS, "-20"),
    ("second-simulator", having(second_simulator=replace(OTHER, mean_return=7.9)), FAIL, "21.0%.*20% is allowed"),
    ("second-simulator", having(second_simulator=replace(OTHER, drop_interval=(0, 3))), HUMAN, "interval goes beyond"),
    ("second-simulator", having(second_simulator=replace(OTHER, mean_return=math.nan)), FAIL, "not a number"),
    ("second-simulator", having(second_simulator=replace(OTHER, reference_return=0.0)), HUMAN, "no share"),
    ("second-simulator", having(second_simulator=None), HUMAN, "No second simulator"),
    ("curriculum", having(), PASS, "has no curriculum"),
    ("curriculum", having(curriculum={"terrain": 4.5, "push": None}), HUMAN, r"terrain at 4.5, push at \?"),
    ("curriculum", unnamed, HUMAN, "not known"),
    ("curriculum", in_stage(why="reached"), PASS, r"'walk', number 2 of 2: x >= 4: it was 4.5"),
    ("curriculum", in_stage(why="over"), HUMAN, r"'walk', number 2 of 2: its iterations were done"),
    ("curriculum", in_stage(why="not_reached"), FAIL, r"x >= 4 was not reached: it was 4.5"),
    ("curriculum", in_stage(why="reached", stage=0), FAIL, r"number 1 of 2"),
    ("randomization", in_stage(levels=(0, 1, 2)), PASS, r"2 of 2 steps: env.push in \[-2, 2\]"),
    ("randomization", in_stage(levels=(0, 1, 2, 1)), FAIL, r"1 of 2 steps: env.push in \[-1, 1\]"),
    ("randomization", having(), HUMAN, "by push"),
    ("randomization", having(randomization={}), HUMAN, "nothing"),
    ("randomization", unnamed, HUMAN, "does not say"),
    ("safety-monitor", having(), HUMAN, "Nothing here can see"),
]
ANSWER = Answer(ok=True, by="Ada", note="looked | twice", at="2026-11-21T10:00:00Z")
NO = replace(ANSWER, ok=False)


@pytest.mark.parametrize(
    ("item", "change", "status", "summary"), JUDGED, ids=[f"{j[0]}-{j[2]}-{n}" for n, j in enumerate(JUDGED)]
)
def test_an_item_is_judged_by_its_evidence(item: str, change, status: str, summary: str, exported: Path):
    evidence = change(good(exported))
    (found,) = [i for i in check(evidence, {}).items if i.item == item]
    assert found.status == status, found
    assert bool(found.advice) == (status != PASS)
    assert re.search(summary, found.summary), found.summary
    answered = {i.item: i for i in check(evidence, {item: ANSWER}).items}[item]
    assert answered.status == (PASS if status == HUMAN else status), "it settles what needs a human, and no more"
    assert answered.evidence["answer"] == ANSWER.to_json()
    vetoed = {i.item: i for i in check(evidence, {item: NO}).items}[item]
    assert vetoed.status == FAIL
    assert vetoed.advice
    json.dumps(found.to_json(), allow_nan=False)


def test_every_item_is_tested_in_every_status_it_can_have():
    tested = {(item, status) for item, _, status, _ in JUDGED}
    assert {item for item, _ in tested} == set(CHECKS)
    only_human = {"reward-shape", "safety-monitor"}
    assert {item for item, status in tested if status == PASS} == set(CHECKS) - only_human - {"formats"}
    assert {item for item, status in tested if status == HUMAN} == set(CHECKS)
    assert {item for item, status in tested if status == FAIL} == set(CHECKS) - only_human


def test_a_policy_is_deployable_when_nothing_failed_and_the_rest_is_answered(exported: Path):
    evidence = good(exported)
    assert not check(evidence, {}).deployable
    answers = dict.fromkeys(("reward-shape", "formats", "randomization", "safety-monitor"), ANSWER)
    checklist = check(evidence, answers)
    assert checklist.deployable
    assert not check(evidence, {"randomization": ANSWER}).deployable
    assert not check(evidence, {**answers, "rewards": NO}).deployable
    assert not check(replace(evidence, long_run=replace(RUN, non_finite=1)), {**answers, "long-run": ANSWER}).deployable
    written = json.loads(json.dumps(checklist.to_json()))
    assert Checklist.from_json(written) == checklist
    assert written["thresholds"] == Thresholds().to_json()
    assert [set(item) for item in written["items"]] == [{"item", "status", "evidence", "advice"}] * len(CHECKS)


def test_a_checklist_is_a_markdown_table(exported: Path):
    rows = check(good(exported), {"safety-monitor": ANSWER}).rows().splitlines()
    assert rows[0] == "| item | status | evidence | next |"
    assert len(rows) == 2 + len(CHECKS)
    assert all(row.count(" | ") == 3 for row in rows[2:])
    assert rows[-1].startswith("| safety-monitor | pass | ")
    assert r"Ada, 2026-11-21T10:00:00Z: looked \| twice" in rows[-1]


def test_limits_of_a_joint_that_is_not_there_are_refused(exported: Path):
    with pytest.raises(RequestError, match=r"Unknown joint in action_limits 'hipp'\. Did you mean 'hip'"):
        check(good(exported, action_limits={"hipp": JointLimits(max_velocity=1.0)}), {})


@pytest.mark.parametrize("robot", [Robot(sensors=("joint_encoder",)), Robot(noise={"joint_po": 0.1})])
def test_what_the_robot_does_not_measure_by_that_name_is_refused(robot: Robot, exported: Path):
    with pytest.raises(RequestError, match=r"Unknown .* in robot\..*Did you mean 'joint_(encoders|pos)'"):
        check(good(exported, robot=robot), {})


# --- measures ---------------------------------------------------------------------------------------------------------

RIGHT = Statistics(mean=MEAN, divisor=DIVISOR, clip=5.0, clip_before=None)


@pytest.fixture(scope="module")
def seen() -> np.ndarray:
    """Observations of a trained policy, (steps, environments, 4): they move within those of training."""
    random = np.random.default_rng(1)
    drift = random.normal(scale=0.2, size=(1, 32, OBSERVATIONS))
    normalized = 0.5 + 0.5 * random.normal(size=(200, 32, OBSERVATIONS)) + drift
    return (np.array(MEAN) + np.array(DIVISOR) * normalized).astype(np.float32)


@pytest.mark.parametrize(
    ("statistics", "status"),
    [
        pytest.param(RIGHT, PASS, id="right"),
        pytest.param(replace(RIGHT, mean=MEAN[::-1], divisor=DIVISOR[::-1]), FAIL, id="another order"),
        pytest.param(replace(RIGHT, mean=(0.0,) * 4, divisor=(1.0,) * 4), FAIL, id="not applied"),
        pytest.param(replace(RIGHT, mean=tuple(57.3 * m for m in MEAN)), FAIL, id="degrees for radians"),
    ],
)
def test_only_the_right_normalizer_passes(statistics: Statistics, status: str, seen: np.ndarray, exported: Path):
    told = replace(contract(exported), normalizer=statistics)
    evidence = good(exported, contract=told, normalized=measure_normalizer(seen, statistics))
    (found,) = [item for item in check(evidence, {}).items if item.item == "normalizer"]
    assert found.status == status


def test_the_error_of_the_normalized_mean_is_that_of_independent_environments(seen: np.ndarray):
    sample = measure_normalizer(seen, RIGHT)
    assert sample.mean == pytest.approx([0.5] * 4, abs=0.1)
    # Independent environments differ by 0.2, far more than 6,400 rows of noise would tell.
    assert sample.standard_error == pytest.approx([0.2 / 32**0.5] * 4, rel=0.4)


def test_the_change_of_actions_is_measured_within_episodes():
    actions = np.array([[[0.0], [1.0]], [[0.5], [1.0]], [[-3.0], [0.75]]], np.float32)
    begins = np.array([[True, True], [False, False], [True, False]])
    found = measure_actions(actions, begins)
    assert (found.lowest, found.highest, found.largest_step) == ((-3.0,), (1.0,), (0.5,))


@pytest.mark.parametrize("by_time", [True, False])
def test_a_history_is_what_was_seen_before(by_time: bool, exported: Path):
    walk = np.random.default_rng(3).normal(size=(30, 3, 2)).astype(np.float32)
    older = np.concatenate([walk[:1], walk[:-1]])
    slices = {"joint_pos": ((0, 1), (2, 3)), "joint_vel": ((1, 2), (3, 4))}
    both = np.concatenate([older, walk], axis=-1)  # oldest first
    if not by_time:
        slices, both = {"joint_pos": ((0, 2),), "joint_vel": ((2, 4),)}, both[..., [0, 2, 1, 3]]
    told = with_terms(contract(exported), lambda each: {"slices": slices[each.name], "history_length": 2})
    first = np.zeros((30, 3), bool)
    first[0] = first[7, 1] = True
    assert measure_history(both, first, told) == HistorySample(
        rows={"joint_pos": 86, "joint_vel": 86}, wrong={"joint_pos": 0, "joint_vel": 0}
    )
    turned = measure_history(both[..., [2, 3, 0, 1] if by_time else [1, 0, 3, 2]], first, told)
    assert turned.wrong == {"joint_pos": 86, "joint_vel": 86}, "newest first"
    assert measure_history(both, first, contract(exported)) is None


def test_one_environment_is_enough_to_measure_the_normalizer():
    walk = np.cumsum(np.random.default_rng(2).normal(size=(400, 1, OBSERVATIONS)), axis=0).astype(np.float32)
    sample = measure_normalizer(walk, RIGHT)
    single_steps = np.array(walk.std(axis=(0, 1))) / np.array(DIVISOR) / 400**0.5
    assert (np.array(sample.standard_error) > 4 * single_steps).all(), "steps that follow each other are alike"
    assert sample.environments == 1


@pytest.mark.parametrize("shape", [(10, 4), (1, 8, 4), (10, 8, 3)])
def test_observations_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        measure_normalizer(np.zeros(shape, np.float32), RIGHT)
