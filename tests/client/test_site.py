"""site.toml: read as a hospital writes it, refused with file, line and hint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pmfed_client.site.site import CoordinatorAddress, Site, read_sites

from pmfed.errors import PolicyError, StudyError

GOOD = """[site]
name = "hospital-1"
title = "First hospital"

[data]
patients = "patients.csv"
images = "pictures/all"
archive = "/srv/archive"

[policy]
epsilon = 4.0
delta = 1e-5
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.toml").write_text(text)
    return folder


def test_paths_are_resolved_against_the_sites_folder(tmp_path: Path) -> None:
    for path in (write(tmp_path / "one", GOOD), tmp_path / "one" / "site.toml"):
        site = Site.read(path)
        assert site.name == "hospital-1"
        assert site.sources == {
            "patients": tmp_path / "one" / "patients.csv",
            "images": tmp_path / "one" / "pictures" / "all",
            "archive": Path("/srv/archive"),
        }
        assert site.ledger == tmp_path / "one" / "ledger.db"
        assert site.identity == tmp_path / "one" / "identity.pem"
        assert site.policy.budget == (4.0, 1e-5)
        assert site.policy.min_patients == 20


def test_relative_folder_stays_valid_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one", GOOD)
    monkeypatch.chdir(tmp_path)
    site = Site.read(Path("one"))
    monkeypatch.chdir("/")
    assert site.ledger == tmp_path / "one" / "ledger.db"


def test_a_site_cannot_be_changed(tmp_path: Path) -> None:
    site = Site.read(write(tmp_path / "one", GOOD))
    with pytest.raises(ValueError, match="frozen"):
        site.name = "other"


@pytest.mark.parametrize("source", ["../other/patients.csv", "a/../../x", "..\\\\x"])
def test_dotdot_is_refused_with_its_line(tmp_path: Path, source: str) -> None:
    folder = write(tmp_path / "one", GOOD.replace("patients.csv", source))
    with pytest.raises(StudyError, match=r"site\.toml:6: data\.patients: '\.\.' leads out"):
        Site.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hospital-1", "Hospital 1"), r"site\.toml:2: site\.name"),
        (("epsilon = 4.0", "epsilon = 0"), r"site\.toml:11: policy\.epsilon: Input should be greater than 0"),
        (("epsilon = 4.0", "epsilon = inf"), r"site\.toml:11: policy\.epsilon"),
        (("delta = 1e-5", "delta = 1"), r"site\.toml:12: policy\.delta"),
        (("delta = 1e-5", ""), r"policy\.delta: this key is required"),
        (("epsilon =", "epsilom = 1\nepsilon ="), r"site\.toml:11: unknown key 'epsilom'; did you mean 'epsilon'"),
        (("[policy]", "[polcy]"), "unknown key 'polcy'; did you mean 'policy'"),
        (("patients.csv", " "), r"site\.toml:6: data\.patients: a path is empty"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    folder = write(tmp_path / "one", GOOD.replace(*change))
    with pytest.raises(StudyError, match=message):
        Site.read(folder)


def test_without_policy_the_site_is_closed(tmp_path: Path) -> None:
    site = Site.read(write(tmp_path / "one", GOOD[: GOOD.index("[policy]")]))
    assert site.policy.budget == (0.0, 0.0)
    with pytest.raises(PolicyError, match="stated no policy"):
        site.policy.admit(None, None, 100, 0)  # type: ignore[arg-type]


def test_sites_are_sorted_by_name_and_other_folders_ignored(tmp_path: Path) -> None:
    write(tmp_path / "z", GOOD.replace("hospital-1", "alpha"))
    write(tmp_path / "a", GOOD.replace("hospital-1", "beta"))
    (tmp_path / "notes").mkdir()
    assert [site.name for site in read_sites(tmp_path)] == ["alpha", "beta"]


def test_folders_without_sites_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such folder"):
        read_sites(tmp_path / "absent")
    with pytest.raises(StudyError, match="none of its folders"):
        read_sites(tmp_path)
    with pytest.raises(StudyError, match="folder of one site; name the folder around it"):
        read_sites(write(tmp_path / "one", GOOD))
    with pytest.raises(StudyError, match="no such file"):
        Site.read(tmp_path)


def test_two_sites_with_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", GOOD)
    write(tmp_path / "b", GOOD)
    with pytest.raises(StudyError, match=r"a/site\.toml and .*b/site\.toml: two sites are called 'hospital-1'"):
        read_sites(tmp_path)


def test_reading_and_starting_a_site_loads_no_torch() -> None:
    """It would take twice the time of every `pmfed site` command, and memory of what only waits for others."""
    code = "import sys, pmfed_client.connection.node, pmfed_client.connection.processes; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


ADDRESSES = {
    "hub.example.org:9092": "", "192.0.2.7:9092": "", "[2001:db8::7]:9092": "", "[::1]:1": "",
    "::1:9092": "brackets", "2001:db8::7:9092": "brackets", "[hub]:9092": "hub", "[::1:9092": "brackets", "[::zz]:1": "zz",
    "hub:0": "no port", "hub:65536": "no port", "hub": "pattern", "[fe80::1%eth0]:9092": "pattern",
}  # fmt: skip


@pytest.mark.parametrize(("address", "wrong"), ADDRESSES.items())
def test_an_address_that_cannot_be_one_is_refused(address: str, wrong: str) -> None:
    if not wrong:
        assert CoordinatorAddress(address=address).address == address
        return
    with pytest.raises(ValueError, match=wrong):
        CoordinatorAddress(address=address)
