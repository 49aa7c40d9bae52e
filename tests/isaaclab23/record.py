"""Writes flags.json: the flags of Isaac Lab 2.3.2's training scripts, with the digests of the files they stand in.

python tests/isaaclab23/record.py CHECKOUT      a checkout of the release, of which only the source is read
"""

import ast
import hashlib
import json
import sys
from pathlib import Path

LIBRARIES = ("rl_games", "rsl_rl", "sb3", "skrl")
LAUNCHER = "source/isaaclab/isaaclab/app/app_launcher.py"
"""The flags of every script's app; the wheel of the release has this file too."""
SCRIPTS = "scripts/reinforcement_learning"


def flags_in(source: str) -> dict[str, bool]:
    """Return the flags that a file gives to a parser, each with whether it takes a value."""
    found = {}
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            names = [ast.literal_eval(argument) for argument in call.args]
            found |= {name: options.get("action") != "'store_true'" for name in names if name.startswith("--")}
    return found


def main(checkout: Path) -> None:
    """Read a checkout and write the file beside this one."""
    files, flags = {}, {}
    for library in LIBRARIES:
        flags[library] = {}
        names = [f"{SCRIPTS}/{library}/train.py", LAUNCHER]
        names += [f"{SCRIPTS}/rsl_rl/cli_args.py"] if library == "rsl_rl" else []
        for name in names:
            source = (checkout / name).read_bytes()
            files[name] = hashlib.sha256(source).hexdigest()
            flags[library] |= flags_in(source.decode())
    document = {
        "version": (checkout / "VERSION").read_text().strip(),
        "files": files,
        "flags": {library: dict(sorted(found.items())) for library, found in flags.items()},
    }
    Path(__file__).with_name("flags.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
