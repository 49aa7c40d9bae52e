from pathlib import Path

import pytest

from simyard.cli.shared import config_and_settings
from simyard.core.errors import RequestError


@pytest.mark.parametrize(
    ("arguments", "config", "settings"),
    [
        ((), None, []),
        (("c.json",), Path("c.json"), []),
        (("c.json", "numEnvs=64", "agent.x=a=b"), Path("c.json"), ["numEnvs=64", "agent.x=a=b"]),
        (("numEnvs=64", "c.json"), Path("c.json"), ["numEnvs=64"]),
    ],
)
def test_the_config_is_told_from_the_settings(arguments, config, settings):
    assert config_and_settings(arguments) == (config, settings)


def test_a_config_may_have_an_equals_sign_in_its_name(tmp_path):
    path = tmp_path / "a=b.json"
    path.write_text("{}")
    assert config_and_settings((str(path), "numEnvs=1")) == (path, ["numEnvs=1"])


def test_a_second_config_is_an_error():
    with pytest.raises(RequestError, match=r"Unexpected argument 'd\.json' after 'c\.json'"):
        config_and_settings(("c.json", "d.json"))
