"""Getting public data: from a local copy, over HTTP, and what happens when a byte is wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pmfed_simulations.public import PublicData, catalogue, fetch, find, get
from pmfed_simulations.studies import built_in_studies

from pmfed.errors import DataError, UsageError

CONTENT = {"a.csv": b"x,y\n1,2\n", "inner/b.csv": b"z\n3\n" * 50_000}


class Published(BaseHTTPRequestHandler):
    """Serves CONTENT; ``/short/`` breaks off in the middle, ``/other/`` serves something else."""

    asked: list[str] = []  # noqa: RUF012  (one server per test; the fixture clears it)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind, _, name = self.path.strip("/").partition("/")
        body = CONTENT.get(name)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "short" else body[::-1] if kind == "other" else body)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Published.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Published) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def data(server: str) -> PublicData:
    return PublicData(
        name="toy",
        title="Toy",
        licence="CC0",
        source="https://example.org/toy",
        files={name: hashlib.sha256(body).hexdigest() for name, body in CONTENT.items()},
        urls={name: f"{server}/good/{name}" for name in CONTENT},
    )


def lying(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_download_is_complete_and_checked(data: PublicData, tmp_path: Path) -> None:
    folder = fetch(data, None, tmp_path / "deep" / "out")
    assert folder == tmp_path / "deep" / "out" / "toy"
    assert lying(folder) == CONTENT
    assert [path.name for path in folder.parent.iterdir()] == ["toy"], "a staging folder was left behind"


def test_what_is_there_is_not_fetched_again(data: PublicData, tmp_path: Path) -> None:
    folder = fetch(data, None, tmp_path)
    Published.asked.clear()
    fetch(data, None, tmp_path)
    assert Published.asked == []
    (folder / "a.csv").write_bytes(b"damaged")
    fetch(data, None, tmp_path)
    assert Published.asked == ["/good/a.csv"]
    assert lying(folder) == CONTENT


@pytest.mark.parametrize("kind", ["other", "short"])
def test_a_wrong_download_keeps_nothing(kind: str, server: str, data: PublicData, tmp_path: Path) -> None:
    # The first file is right: it must not stay behind either.
    bad = replace(data, urls={**data.urls, "inner/b.csv": f"{server}/{kind}/inner/b.csv"})
    with pytest.raises(DataError, match=r"inner/b\.csv.*Nothing was kept"):
        fetch(bad, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_download_leaves_the_old_files(server: str, data: PublicData, tmp_path: Path) -> None:
    folder = fetch(data, None, tmp_path)
    (folder / "a.csv").write_bytes(b"older release")
    bad = replace(data, urls={**data.urls, "a.csv": f"{server}/other/a.csv"})
    with pytest.raises(DataError, match="checksum"):
        fetch(bad, None, tmp_path)
    assert (folder / "a.csv").read_bytes() == b"older release"


def test_unreachable_addresses_say_where_else_to_get_it(server: str, data: PublicData, tmp_path: Path) -> None:
    for url in (f"{server}/good/no-such-file", "http://127.0.0.1:9/closed"):
        bad = replace(data, urls=dict.fromkeys(CONTENT, url))
        with pytest.raises(DataError, match="cannot be downloaded") as caught:
            fetch(bad, None, tmp_path)
        assert "https://example.org/toy" in caught.value.remedy
        assert "pmfed data get toy --from DIR" in caught.value.remedy
        assert list(tmp_path.iterdir()) == []


def test_data_without_urls_say_where_to_get_them_by_hand(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'iwpc_warfarin' cannot be downloaded") as caught:
        get("iwpc_warfarin", None, tmp_path / "out")
    assert "pharmgkb.org" in caught.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["iwpc_warfarin", "heart_disease_uci", "eicu_demo"])
def test_a_local_copy_is_taken_from_its_folder_or_the_one_above(name: str, public_data: Path, tmp_path: Path) -> None:
    above = get(name, public_data, tmp_path / "a")
    own = get(name, public_data / name, tmp_path / "b")
    assert set(lying(above)) == set(catalogue()[name].files)
    assert lying(above) == lying(own)


def test_a_local_copy_lacking_a_file_keeps_nothing(data: PublicData, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.csv").write_bytes(CONTENT["a.csv"])
    with pytest.raises(DataError, match=r"'inner/b\.csv' of 'toy' is not there"):
        fetch(data, tmp_path / "copy", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_changed_local_copy_keeps_nothing(data: PublicData, tmp_path: Path) -> None:
    for name, body in CONTENT.items():
        path = tmp_path / "copy" / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body + b" " if name == "a.csv" else body)
    with pytest.raises(DataError, match=r"'a\.csv' of 'toy' is not the published file"):
        fetch(data, tmp_path / "copy", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_destination_that_is_a_file_is_an_error_for_people(data: PublicData, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match=r"out: .*Nothing was kept"):
        fetch(data, None, tmp_path / "out")


def test_names_of_data_and_of_studies_are_known_and_near_ones_suggested() -> None:
    assert find("iwpc_warfarin") == find("warfarin") == catalogue()["iwpc_warfarin"]
    with pytest.raises(UsageError, match="Did you mean 'eicu_demo'"):
        find("eicu-demo")
    with pytest.raises(UsageError, match="pmfed data list"):
        find("zzzzzz")


def test_every_built_in_study_finds_its_data_in_the_catalogue() -> None:
    wanted = {name: data for name, study in built_in_studies().items() if (data := study.sites.data) is not None}
    assert {study: entry.name for entry in catalogue().values() for study in entry.studies} == wanted


def test_the_catalogue_is_complete_and_its_addresses_never_move() -> None:
    for entry in catalogue().values():
        assert entry.title
        assert entry.licence
        assert entry.source.startswith("https://")
        assert entry.files
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in entry.files.values())
        assert set(entry.urls) in (set(), set(entry.files))
        for url in entry.urls.values():
            assert url.startswith("https://")
            # A branch of a repository changes under our feet; a commit does not.
            if "githubusercontent.com" in url:
                assert len(bytes.fromhex(url.split("/")[5])) == 20


def test_the_catalogue_agrees_with_the_files_at_hand(public_data: Path) -> None:
    for entry in catalogue().values():
        for file, sha256 in entry.files.items():
            path = public_data / entry.name / file
            if path.is_file() and path.stat().st_size < 1_000_000:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256, path
