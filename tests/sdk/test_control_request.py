"""The `control` section of a rollout's request: what is taken, what is refused in words, what OpenAPI says of it."""

from __future__ import annotations

import json
import math
import pickle
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simyard.core.errors import RequestError
from simyard.requests.config import check_config
from simyard.requests.control import MODELS, TaskControl
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.rollout import RolloutRequest
from simyard.runner.isaaclab import rollouts as isaaclab_rollouts
from simyard.runner.newton.control import Gains, Setup, read_control
from simyard.runner.newton.mode import limits_of
from simyard.runner.newton.modes import DEFAULT, MODES
from simyard.runner.newton.scenes import SCENES
from simyard.service.bodies import schemas

ROOT = Path(__file__).parents[2]
PICK = {"task_mode": "pick_lift", "ee_body": "tcp", "finger_joints": ["left", "right"]}
TAKEN: list[dict[str, Any]] = [
    {},
    {"task_mode": "hold", "fix_base": True, "base_position": [0, 0, 1], "base_yaw": 1.5},
    {"task_mode": "zero", "initial_positions": {"elbow": 1}},
    {"task_mode": "random", "period_s": 1, "range": 0.5, "smooth": False},
    {"task_mode": "sine", "amplitude": {"elbow": 0.1}, "frequency_hz": 2, "phase": {"elbow": 1}},
    {"task_mode": "sine", "gains": {"stiffness": 100, "damping": {"elbow": 5}}},
    {
        "task_mode": "trajectory",
        "keyframes": [{"time_s": 0, "positions": {"elbow": 1}}, {"time_s": 2, "positions": {}}],
    },
    {"task_mode": "policy"},
    {**PICK, "open": 0.04, "closed": {"left": 0}, "object": "cube", "spread_yaw": 0.1},
    {"task_mode": "fr3_pick_lift_block_v1", "fix_base": True, "duration_s": 4},
]


def request(control: Any, **changes: Any) -> dict[str, Any]:
    body = {"robot": {"urdf_uri": "arm.urdf"}, "execution": {"steps": 100}, "control": control}
    if isinstance(control, dict) and control.get("task_mode") == "policy":
        body["policy"] = {"uri": "policy.onnx"}
    if isinstance(control, dict) and str(control.get("task_mode")).startswith("fr3_"):
        del body["robot"]
    return body | changes


def of_a_task(control: Any) -> dict[str, Any]:
    return request(control, robot=None, runtime_profile="isaac_lab_rollout", isaac_lab={"task_class_or_name": "Task"})


def refusal(control: Any) -> str:
    with pytest.raises(RequestError) as error:
        check_config(request(control), RolloutRequest)
    return error.value.failure.message


# What is taken.


@pytest.mark.parametrize("control", TAKEN, ids=str)
def test_what_is_taken_reaches_the_workload_as_it_was_given(control: dict[str, Any]) -> None:
    asked = check_config(request(control), RolloutRequest)
    assert asked.control.to_plain() == control
    read = read_control(json.loads(json.dumps(asked.control.to_plain())))
    assert read.name == control.get("task_mode", DEFAULT)
    for name, value in control.items():
        held = next((getattr(part, name) for part in (read.mode, read.setup) if hasattr(part, name)), None)
        if name not in ("task_mode", "keyframes", "gains"):
            assert held == (tuple(value) if isinstance(held, tuple) else value)


def test_what_the_workload_reads_of_nested_settings() -> None:
    gains = read_control({"gains": {"stiffness": 100, "damping": {"elbow": 5}}}).setup.gains
    assert gains == Gains(stiffness=100, damping={"elbow": 5})
    mode: Any = read_control(TAKEN[6]).mode
    assert [(frame.time_s, frame.positions) for frame in mode.keyframes] == [(0, {"elbow": 1}), (2, {})]


def test_every_mode_has_an_example_here() -> None:
    assert {control.get("task_mode", DEFAULT) for control in TAKEN} == set(MODES)


@pytest.mark.parametrize("control", TAKEN, ids=str)
def test_a_request_can_be_sent_on_and_pickled(control: dict[str, Any]) -> None:
    asked = check_config(request(control), RolloutRequest)
    sent = asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert sent["control"] == control
    assert RolloutRequest.model_validate(sent) == asked
    assert pickle.loads(pickle.dumps(asked)) == asked


@pytest.mark.parametrize(
    "control", [{}, {"task_mode": "policy", "sample": True}, {"task_mode": 3, "gait": [{"knee": None}]}], ids=str
)
def test_a_task_reads_its_control_itself(control: dict[str, Any]) -> None:
    body = of_a_task(control) | ({"policy": {"uri": "model.pt"}} if control.get("task_mode") == "policy" else {})
    assert check_config(body, RolloutRequest).control.to_plain() == control


def test_a_managed_run_s_template_has_the_same_control() -> None:
    def run(control: dict[str, Any]) -> TrainingRunRequest:
        template = {"robot": {"urdf_uri": "arm.urdf"}, "steps": 1, "control": control}
        trainer = {"image_uri": "local", "entrypoint": "python train.py"}
        body = {"rollout_template": template, "trainer_spec": trainer, "loop_policy": {"max_iterations": 1}}
        return check_config(body, TrainingRunRequest)

    assert run({"task_mode": "sine", "phase": 1}).rollout_template.control.to_plain() == {
        "task_mode": "sine",
        "phase": 1,
    }
    with pytest.raises(RequestError, match=r"rollout_template\.control\.phase: Input should be a number .* not 'x'"):
        run({"task_mode": "sine", "phase": "x"})


# What is refused.


@pytest.mark.parametrize("name", ["hodl", "fr3_pick_lift_block_v2", "", 3, None, ["hold"]])
def test_an_unknown_mode_names_those_there_are(name: Any) -> None:
    said = refusal({"task_mode": name})
    assert f"control.task_mode: Unknown task_mode {name!r}" in said
    assert all(repr(mode) in said for mode in MODES)


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ({"task_mode": "hodl"}, r"Did you mean 'hold'\?"),
        ({"task_mode": "sine", "amplitud": 1}, r"amplitud: Unknown field 'amplitud'\. Did you mean 'amplitude'\?"),
        ({"task_mode": "sine", "amplitud": 1}, "'frequency_hz'"),
        ({"task_mode": "hold", "amplitude": 1}, "Unknown field 'amplitude'"),
        ({"gains": {"stifness": 1}}, "control.gains.stifness: Unknown field 'stifness'. Did you mean"),
        ({"taskMode": "hold"}, "Unknown field 'taskMode'"),  # control has one spelling
        ({"base_yaw": math.nan}, "control: base_yaw: nan is no number that JSON knows"),
        ({"base_yaw": math.inf}, "control: base_yaw: inf is no number that JSON knows"),
        ({"task_mode": "trajectory"}, r"^control\.keyframes is missing\.$"),
        ({"task_mode": "trajectory", "keyframes": [{"time_s": 1}]}, r"^control\.keyframes\.0\.positions is missing\.$"),
    ],
)  # fmt: skip
def test_fields_that_are_unknown_or_missing_and_numbers_that_are_none(control: dict[str, Any], said: str) -> None:
    assert re.search(said, refusal(control))


REFUSED: list[tuple[Any, str, str]] = [
    (3, "control", "an object"),
    ({"fix_base": 1}, "control.fix_base", "true or false, not 1"),
    ({"fix_base": None}, "control.fix_base", "true or false, not None"),
    ({"base_position": [0, 0]}, "control.base_position", "a list of 3 numbers from -1000 to 1000, not [0, 0]"),
    ({"base_position": [0, 0, "1"]}, "control.base_position.2", "a number from -1000 to 1000, not '1'"),
    ({"base_position": [0, 0, 1e9]}, "control.base_position.2", "not 1000000000.0"),
    ({"base_yaw": True}, "control.base_yaw", "a number from -10 to 10, not True"),
    ({"base_yaw": 10**400}, "control.base_yaw", "a number from -10 to 10, not 1000"),
    ({"initial_positions": [1]}, "control.initial_positions", 'such as {"elbow": 0.5}, not [1]'),
    ({"initial_positions": {"elbow": None}}, "control.initial_positions.elbow", "not None"),
    ({"gains": 100}, "control.gains", "an object with 'stiffness' and 'damping', not 100"),
    ({"gains": None}, "control.gains", "not None"),
    ({"gains": {"stiffness": -1}}, "control.gains.stiffness", "a number from 0 to 1e+09, not -1"),
    ({"gains": {"damping": {"elbow": "x"}}}, "control.gains.damping.elbow", "not 'x'"),
    ({"task_mode": "random", "period_s": 0}, "control.period_s", "a number from 0.001 to 10000, not 0"),
    ({"task_mode": "random", "range": 1.5}, "control.range", "a number from 0 to 1, not 1.5"),
    ({"task_mode": "random", "smooth": "yes"}, "control.smooth", "true or false, not 'yes'"),
    ({"task_mode": "sine", "amplitude": "big"}, "control.amplitude", "a number from 0 to 100, not 'big'"),
    ({"task_mode": "sine", "frequency_hz": {"elbow": -1}}, "control.frequency_hz.elbow", "not -1"),
    ({"task_mode": "trajectory", "keyframes": []}, "control.keyframes", "a list of 1 to 10,000"),
    ({"task_mode": "trajectory", "keyframes": [3]}, "control.keyframes.0", "'time_s' and 'positions', not 3"),
    ({"task_mode": "trajectory", "keyframes": [{"time_s": -1, "positions": {}}]}, "control.keyframes.0.time_s", "-1"),
    (
        {"task_mode": "trajectory", "keyframes": [{"time_s": 1, "positions": {}}, {"time_s": 1, "positions": {}}]},
        "control.keyframes.1.time_s",
        "more than that of the one before, 1, not 1",
    ),
    ({**PICK, "ee_body": ""}, "control.ee_body", "a name, not ''"),
    ({**PICK, "ee_body": 3}, "control.ee_body", "a name, not 3"),
    ({**PICK, "finger_joints": []}, "control.finger_joints", "a list of names, not []"),
    ({**PICK, "finger_joints": ["a", "a"]}, "control.finger_joints", "a list of different names, not ['a', 'a']"),
    ({**PICK, "finger_joints": ["a", 1]}, "control.finger_joints.1", "a name, not 1"),
]


@pytest.mark.parametrize(("control", "where", "allowed"), REFUSED, ids=lambda value: str(value)[:60])
def test_values_that_are_not_allowed(control: Any, where: str, allowed: str) -> None:
    said = refusal(control)
    assert said.startswith(f"{where}: Input should be ")
    assert allowed in said


def test_all_that_is_wrong_is_named_at_once() -> None:
    said = refusal({"task_mode": "sine", "amplitude": {"a": -1, "b": "x"}, "phase": True, "gain": 1, "base_yaw": 11})
    for where in ("amplitude.a", "amplitude.b", "phase", "gain", "base_yaw"):
        assert f"control.{where}: " in said


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text("elbow", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("elbow", max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(sorted({name for model in MODELS.values() for name in model.model_fields}))


@settings(deadline=None)
@given(st.sampled_from([*MODES]), st.dictionaries(names, json_values, max_size=4))
def test_whatever_is_said_is_taken_or_refused_in_words(mode: str, control: dict[str, Any]) -> None:
    try:
        asked = check_config(request({**control, "task_mode": mode}), RolloutRequest)
    except RequestError as error:
        assert "control" in error.failure.message
        assert error.failure.advice
    else:
        read_control(asked.control.to_plain())


# What OpenAPI says.


def test_openapi_names_every_mode_and_every_field() -> None:
    found = schemas()
    arms = [found[arm["$ref"].rpartition("/")[2]] for arm in found["RolloutRequest"]["properties"]["control"]["anyOf"]]
    of_task = arms.pop()
    assert [arm["title"] for arm in arms] == [*MODES]
    for arm, (name, mode) in zip(arms, MODES.items(), strict=True):
        declared = limits_of(mode) | limits_of(Setup)
        assert (arm["properties"].keys(), arm["additionalProperties"]) == ({"task_mode", *declared}, False)
        assert arm["properties"]["task_mode"]["const"] == name
        assert arm["description"] == mode.__doc__
        for field, limits in declared.items():
            assert arm["properties"][field]["description"] == limits.about
    assert ("task_mode" in arms[0].get("required", [])) is False, "left out it is the default"
    assert all("task_mode" in arm["required"] for arm in arms[1:])
    assert of_task["properties"]["task_mode"]["examples"] == [*isaaclab_rollouts.MODES]
    assert {*of_task["properties"]} == {*isaaclab_rollouts._FIELDS} == {*TaskControl.model_fields}


def test_openapi_has_defaults_and_limits() -> None:
    sine = schemas()["SineControl"]["properties"]
    by_number, by_joint = sine["amplitude"]["anyOf"]
    assert sine["amplitude"]["default"] == 0.2
    assert by_number == by_joint["additionalProperties"] == {"type": "number", "minimum": 0, "maximum": 100}
    assert (sine["base_position"]["minItems"], sine["base_position"]["maxItems"]) == (3, 3)
    assert "default" not in sine["fix_base"], "null is not taken, so a form must not send it"
    assert schemas()["TrajectoryControl"]["required"] == ["task_mode", "keyframes"]


@pytest.fixture(scope="module")
def accepts() -> Any:
    found = schemas()
    document = {"$ref": "#/components/schemas/RolloutRequest", "components": {"schemas": found}}
    return jsonschema.Draft202012Validator(document).is_valid


def sent(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}


@pytest.mark.parametrize("control", TAKEN, ids=str)
def test_openapi_accepts_what_the_model_accepts(accepts: Any, control: dict[str, Any]) -> None:
    assert accepts(sent(request(control)))
    filled_in = check_config(request(control), RolloutRequest).control.model_dump(mode="json", exclude_none=True)
    assert accepts(sent(request(filled_in))), "with every default, as a form sends it"
    check_config(request(filled_in), RolloutRequest)


@pytest.mark.parametrize("control", [{}, {"task_mode": "policy", "sample": True}, {"gait": [1]}, {"task_mode": 3}])
def test_openapi_lets_a_task_have_any_control(accepts: Any, control: dict[str, Any]) -> None:
    assert accepts(sent(of_a_task(control)))


@pytest.mark.parametrize("control", [case[0] for case in REFUSED], ids=lambda value: str(value)[:60])
def test_openapi_refuses_what_the_model_refuses(accepts: Any, control: Any) -> None:
    frames = control.get("keyframes", []) if isinstance(control, dict) else []
    increasing = len(frames) == 2  # a rule between two values, which a schema cannot say
    assert accepts(sent(request(control))) == increasing


documented = cache(schemas)


@settings(deadline=None)
@given(st.sampled_from(TAKEN), st.dictionaries(names, json_values, max_size=2))
def test_the_model_accepts_what_openapi_accepts(control: dict[str, Any], changes: dict[str, Any]) -> None:
    model = type(check_config(request(control), RolloutRequest).control)
    changed = {**control, **{name: value for name, value in changes.items() if name != "task_mode"}}
    document = {**documented()[model.__name__], "components": {"schemas": documented()}}
    if jsonschema.Draft202012Validator(document).is_valid(changed) and "keyframes" not in changes:
        check_config(request(changed), RolloutRequest)


# What the documentation says.


def test_the_documentation_has_every_mode_field_and_scene() -> None:
    text = (ROOT / "docs" / "rollouts.md").read_text()
    section = text.partition("## Standard profile")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert {"task_mode", *limits_of(Setup), *MODES, *SCENES, *limits_of(MODES["pick_lift"])} <= named
    assert limits_of(MODES["fr3_pick_lift_block_v1"]).keys() - limits_of(MODES["pick_lift"]) == {"duration_s"}
    for name, mode in MODES.items():
        row = next(row for row in rows if row.startswith(f"| `{name}` |"))
        if not issubclass(mode, MODES["pick_lift"]):
            defaults = dict(re.findall(r"`(\w+)` ?([\w.]*)", row.split(" | ")[1]))
            assert defaults.keys() == limits_of(mode).keys()
            for field, default in defaults.items():
                assert default == "" or json.loads(default) == MODELS[name].model_fields[field].default


def test_every_setting_is_described() -> None:
    for kind in (Setup, Gains, *MODES.values()):
        assert all(limits.about.endswith(".") for limits in limits_of(kind).values())
        assert (kind.__doc__ or "").endswith(".")
    assert not {name for mode in MODES.values() for name in limits_of(mode)} & limits_of(Setup).keys()
