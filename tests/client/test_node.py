"""Agent and node as two users: the node's folder holds what the connection needs, and its user gets no further."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import federation
import pytest
from pmfed_client.connection.node import Node, split
from pmfed_client.connection.processes import node_programs, programs, start_agent
from pmfed_client.site.create import make_home
from pmfed_client.site.site import Site
from pmfed_client.site.trust import card_of

from pmfed.errors import StudyError, UsageError
from pmfed.study import Study

COORDINATOR = '[coordinator]\naddress = "hub.example.org:9092"\n'
AGENT = '[agent]\nsocket = "{socket}"\nnode_user = "nobody"\n'


def made(folder: Path, agent: str = "") -> Site:
    site = make_home(folder / "north", "north")
    with (site.folder / "site.toml").open("a") as file:
        file.write(COORDINATOR + agent)
    (site.folder / "ca.crt").write_text("a certificate")
    return Site.read(site.folder)


def test_the_nodes_folder_holds_the_connection_and_nothing_of_the_site(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "agent.sock"
    site = made(tmp_path, AGENT.format(socket=socket))
    card, key = card_of(site), site.node_key.read_bytes()
    node = split(site, tmp_path / "node")
    assert {path.name for path in node.home.iterdir()} == {"node.toml", "node.key", "node.pub", "ca.crt"}
    assert (node.key.read_bytes(), node.socket, node.address) == (key, socket, "hub.example.org:9092")
    assert not site.node_key.exists()  # one of the two holds it
    assert card_of(site) == card  # the coordinator need not be told
    owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    for path in (node.home, *node.home.iterdir()):
        assert path.stat().st_uid == owner
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path.name == "node.pub"
    assert Node.read(tmp_path / "node") == node
    told = [word for program in node_programs(node) for word in (*program.command, program.folder, program.log)]
    assert not any(str(site.folder) in word for word in told)
    with pytest.raises(UsageError, match="not here"):
        split(site, tmp_path / "again")
    with pytest.raises(UsageError, match="runs as another user, 'nobody'"):
        programs(site, None)


def test_what_cannot_be_two_users_is_an_error(tmp_path: Path) -> None:
    site = made(tmp_path / "one")
    with pytest.raises(StudyError, match="no \\[agent\\] node_user"):
        split(site, tmp_path / "node")
    site = made(tmp_path / "two", '[agent]\nnode_user = "nobody"\n')
    for act in (lambda: split(site, tmp_path / "node"), lambda: start_agent(site)):
        with pytest.raises(StudyError, match="which 'nobody' cannot enter"):
            act()
    site = made(tmp_path / "three", AGENT.format(socket=tmp_path / "agent.sock"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        split(site, tmp_path / "full")
    assert site.node_key.exists()
    (site.folder / "ca.crt").unlink()
    with pytest.raises(UsageError, match=r"ca\.crt"):
        split(site, tmp_path / "node")


ROOT = Path(__file__).parents[2]
PLACES = (sysconfig.get_paths()["purelib"], *(ROOT / name for name in ("", "client", "server", "simulations", "tests")))
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(map(str, PLACES)), "PATH": os.environ.get("PATH", ""), "HOME": "/"}


def as_user(name: str, python: str, *words: str, groups: Sequence[str] = ()) -> subprocess.Popen[str]:
    user = pwd.getpwnam(name)
    more = [pwd.getpwnam(one).pw_gid for one in groups]
    return subprocess.Popen(
        [python, *words], user=user.pw_uid, group=user.pw_gid, extra_groups=more, umask=0o077, text=True, env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
    )  # fmt: skip


@pytest.fixture
def python() -> str:
    """Return a Python that other users may run, too: this one may lie in a folder of root's."""
    if os.geteuid() != 0:
        pytest.skip("only root can become other users")
    for path in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        try:
            process = as_user("daemon", path, "-c", "import pmfed_client.agent.agent")
        except OSError:
            continue
        if process.communicate()[0] == "" and process.returncode == 0:
            return path
    pytest.skip("other users cannot run this Python")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


ASKS = """
import sys
from pathlib import Path
from pmfed.study import Study
from pmfed.wire import Request, dump, parse_reply
from pmfed_client.connection.channel import call
site, socket, canary = map(Path, sys.argv[1:])
study = Study.from_text(canary.read_text(), "study.toml")
request = Request(kind="enroll", run="ab" * 16, study=study.fingerprint(), sites=3, text=study.canonical())
try:
    print("answer", parse_reply(call(socket)(dump(request), {})[0]).code)
except Exception as error:
    print("turned away", type(error).__name__)
for path in (site, site / "site.toml", site / "patients.csv", site / "identity.pem", site / "ledger.db", site / "agent.log"):
    try:
        path.open().read() if path.is_file() else list(path.iterdir())
        print("READ", path)
    except PermissionError:
        pass
"""


@pytest.mark.slow
def test_two_real_users(folder: Path, python: str) -> None:
    """'daemon' runs the agent, 'nobody' the node; 'bin' is a third who has nothing to do with it."""
    shutil.copytree(federation.write_federation(folder / "f") / "sites" / "north", folder / "north")
    (folder / "f").rename(folder / "north" / "others")
    run, site = folder / "run", folder / "north"
    run.mkdir()
    with (site / "site.toml").open("a") as file:
        file.write(COORDINATOR + AGENT.format(socket=run / "agent.sock"))
    (folder / "study.toml").write_text(federation.STUDY)
    daemon = pwd.getpwnam("daemon")
    for path in (run, site, *site.rglob("*")):
        os.chown(path, daemon.pw_uid, daemon.pw_gid)
        os.chmod(path, 0o755 if path == run else 0o700 if path.is_dir() else 0o600)
    agent = as_user("daemon", python, "-m", "pmfed_client.connection.agent_process", str(site), groups=("nobody",))
    try:
        deadline = time.monotonic() + 120
        while not (run / "agent.sock").exists():
            assert agent.poll() is None, agent.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        words = ("-c", ASKS, str(site), str(run / "agent.sock"), str(folder / "study.toml"))
        asked = {
            name: as_user(name, python, *words, groups=groups)
            for name, groups in (("nobody", ()), ("bin", ("nobody",)))
        }
        said = {name: process.communicate(timeout=120)[0].splitlines() for name, process in asked.items()}
        assert said["nobody"] == ["answer PM320"]  # nobody approved the study; and of the site's files it reads none
        assert len(said["bin"]) == 1
        assert said["bin"][0].startswith("turned away")
    finally:
        agent.terminate()
        log = agent.communicate(timeout=60)[0]
    assert f"user {pwd.getpwnam('bin').pw_uid} knocked" in log
    assert Study.from_text(federation.STUDY, "study.toml").fingerprint() not in log
    assert not (run / "agent.sock").exists()
