"""USD layers: what they are composed of, and what they only look like."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.runner.assets.archive_formats import show
from simyard.runner.assets.references import Folder, Reference, refused

USD_LAYERS = (".usd", ".usda", ".usdc")
_LOOKS = (".mdl", ".mtlx")
"""Endings of materials: nothing here reads them."""
_RAISED = re.compile(r"Error in '[^']*' at line \d+ in file \S+ : '(.*)'", re.DOTALL)
_SYNTAX = re.compile(r"(?:[^\s:]*/)?[^\s:/]+:(\d+):\d+: parse error matching \S+ at (.*?)(?: in <.*>)?\s*", re.DOTALL)


def composed_of(path: Path) -> list[str]:
    """Return the names of the layers that a layer is made of; none for one that cannot be read."""
    with suppress(Exception):  # its own fault is told once it is the one that counts
        from pxr import Sdf

        layer = Sdf.Layer.OpenAsAnonymous(str(path))
        return [str(text) for text in layer.GetCompositionAssetDependencies()]
    return []


def settle_usd(path: Path, folder: Folder) -> list[Path]:
    """Make a layer refer to nothing outside its folder; return the files that it refers to.

    Layers that it is composed of must be there. What its attributes name are materials, textures and lights: those that
    are elsewhere are taken out.

    Raises:
        RequestError: If it cannot be read, or is composed of what is not there or not looked into.
    """
    try:
        from pxr import Sdf, Tf, UsdUtils
    except ImportError as error:
        raise RequestError(
            f"USD files cannot be read here: {error}.",
            code="no_usd",
            advice="Install 'isaaclab==3.0.0', or name a Python that has it in SIMYARD_PYTHON.",
        ) from error
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    try:
        layer = Sdf.Layer.OpenAsAnonymous(str(path))
        if layer is None:
            raise _bad_usd(path, "it is none, or damaged")
        UsdUtils.ModifyAssetPaths(layer, note)
        composed = set(layer.GetCompositionAssetDependencies())
    except (Tf.ErrorException, UnicodeError) as error:
        why = "its text is not UTF-8"
        with suppress(UnicodeError):  # USD quotes what it could not read
            why = _reason(str(error))
        raise _bad_usd(path, why) from error
    if layer.pseudoRoot.HasInfo("expressionVariables"):
        raise refused(f"{path.name!r} has expressionVariables, so that its references can change", "Write them out")

    # Each path by itself, then the layer without those that are left out.
    found: list[Path] = []
    left_out = set()
    for text in dict.fromkeys(filter(None, texts)):
        where = f"{path.name!r} refers to {show(text)}"
        name, _, arguments = text.partition(":SDF_FORMAT_ARGS:")
        reference = Reference(text=name, base=path.parent, numbered=True)
        suffix = Path(name).suffix.lower()
        if text in composed and suffix not in _LOOKS:
            if arguments:
                raise refused(f"{where}, with arguments for its format", "Name the file alone")
            if suffix == ".usdz" or "[" in name:
                advice = "Bring what is in it as USD files of the bundle"
                raise refused(f"{where}, whose content is not looked into", advice)
            found.append(folder.find(reference, path))
        elif suffix == ".mdl" and "/" not in name and "\\" not in name:
            continue  # one that NVIDIA's renderers bring themselves
        elif text not in composed and (target := folder.look(reference, path)):
            found.append(target)
        else:
            left_out.add(text)
            if text in composed:
                folder.note(f"{where}, a material, which is left out")
    if left_out:
        UsdUtils.ModifyAssetPaths(layer, lambda text: "" if text in left_out else text)
        layer.Export(str(path))
    return found


def _reason(text: str) -> str:
    """Return USD's own words on a file, without those on its source code."""
    raised = _RAISED.search(text)
    said = " ".join((raised[1] if raised else text).split())
    if syntax := _SYNTAX.fullmatch(said):
        return f"line {syntax[1]} has a syntax error at {syntax[2]}"
    return said[:300] or "it is none, or damaged"


def _bad_usd(path: Path, why: str) -> RequestError:
    return RequestError(
        f"{path.name!r} cannot be opened as USD: {why}.",
        code="asset_unreadable",
        advice="usdview or 'usdchecker FILE' finds the same error.",
    )
