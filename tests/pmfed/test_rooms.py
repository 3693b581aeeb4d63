"""How the house is built: arrows run one way, nothing runs in a circle, Flower's inner parts are in three files."""

from __future__ import annotations

import ast
import re
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from pmfed import flower_version
from pmfed.errors import UsageError

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "pmfed": ROOT / "pmfed",
    "pmfed_client": ROOT / "client" / "pmfed_client",
    "pmfed_server": ROOT / "server" / "pmfed_server",
    "pmfed_simulations": ROOT / "simulations" / "pmfed_simulations",
}
SEEN = {"pmfed": (), "pmfed_client": ("pmfed",), "pmfed_server": ("pmfed",), "pmfed_simulations": tuple(PACKAGES)}
PROMISED = ("flwr.app", "flwr.clientapp", "flwr.serverapp")


def name_of(package: str, path: Path) -> str:
    return ".".join((package, *path.relative_to(PACKAGES[package]).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(package, path): path for package, folder in PACKAGES.items() for path in folder.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Return all that a file imports, wherever in it, for its types too; a name of a module as that module."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: names are given in full"
            found |= {full if (full := f"{node.module}.{one.name}") in MODULES else node.module for one in node.names}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def test_nothing_imports_in_a_circle() -> None:
    arrows = {name: (found & MODULES.keys()) - {name} for name, found in IMPORTS.items()}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_arrows_run_one_way() -> None:
    wrong = {}
    for name, found in IMPORTS.items():
        package = name.split(".")[0]
        others = {top for one in found if (top := one.split(".")[0]) in PACKAGES} - {package, *SEEN[package]}
        if others and not name.startswith("pmfed.cli."):  # the face, which alone looks up
            wrong[name] = others
    assert wrong == {}


def test_what_flower_does_not_promise_is_named_in_one_file_a_side() -> None:
    flower = {name: {one for one in found if one.split(".")[0] == "flwr"} for name, found in IMPORTS.items()}
    assert not [name for name, found in flower.items() if found and name.split(".")[0] == "pmfed"]
    inner = {name for name, found in flower.items() if any(not one.startswith(PROMISED) for one in found)}
    sides = {"pmfed_client.connection", "pmfed_server", "pmfed_simulations"}
    measured = "pmfed_simulations.bench.secagg"  # Flower's own protocol, beside ours
    assert inner == {measured, *(f"{side}.flower_internals" for side in sides)}
    for name in inner - {measured}:
        text = MODULES[name].read_text(encoding="utf-8")
        assert text.index("\ncheck_flower()\n") < text.index("from flwr"), "the version is checked first"


def test_the_versions_are_those_that_are_installed() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [pin for pins in (told["dependencies"], *told["optional-dependencies"].values()) for pin in pins]
    flower = [
        re.fullmatch(r"flwr(?:\[\w+\])?>=(\d+)\.(\d+),<(\d+)\.(\d+)", pin) for pin in pins if pin.startswith("flwr")
    ]
    limits = (*flower_version.FIRST, *flower_version.BEFORE)
    assert [tuple(map(int, found.groups())) for found in flower if found] == [limits] * 2


@pytest.mark.parametrize(
    ("installed", "fits"),
    [("1.41.0", True), ("1.42.3", True), ("1.43.0", False), ("1.9.0", False), ("2.0.0rc1", False)],
)
def test_another_flower_is_refused_in_a_sentence(installed: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_version, "version", lambda name: installed)
    if fits:
        flower_version.check_flower()
        return
    with pytest.raises(UsageError, match=f"Flower {installed} is installed") as caught:
        flower_version.check_flower()
    assert caught.value.remedy.endswith("pip install 'flwr>=1.41,<1.43'")
