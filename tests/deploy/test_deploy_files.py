"""What lies in deploy/ speaks of this very program: its commands, its versions, its files.

Tools that must be downloaded (hadolint, helm, schemas) check the rest by hand: docs/hospital.md says when that was done.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pmfed_server.serving import NGINX
from typer.main import get_command

import pmfed
from pmfed.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
TRIAL = DEPLOY / "trial.sh"
CHART = DEPLOY / "helm" / "pmfed"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of ours that a file in deploy/ runs, and the file."""
    for unit in UNITS:
        for line in re.findall(r"^Exec\w+=/opt/pmfed/bin/pmfed (.*)$", unit.read_text(), re.MULTILINE):
            yield unit.name, shlex.split(line)
    for file in DOCKERFILES:
        text = file.read_text()
        assert 'ENTRYPOINT ["pmfed"]' in text
        for line in re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE):
            yield file.name, yaml.safe_load(line)
    for line in re.findall(r'\bpmfed ((?:data|site|coordinator) [^|;"\n]*)', TRIAL.read_text()):
        yield TRIAL.name, shlex.split(line.partition(" > ")[0].replace("$site", "hospital-1"))
    for template in sorted((CHART / "templates").glob("*.yaml")):
        for line in re.findall(r"\bpmfed ((?:site|coordinator) .*)$", template.read_text(), re.MULTILINE):
            yield template.name, shlex.split(line.replace("$HOSTS", "--host hub").replace("$PORT", "9092"))


@pytest.mark.parametrize(("file", "words"), [pytest.param(*told, id=f"{told[0]}:{told[1][1]}") for told in commands()])
def test_every_command_is_one_of_ours(file: str, words: list[str]) -> None:
    command, name = get_command(app), "pmfed"
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, file
        command = command.commands[name]
    command.make_context(name, list(words))  # reads the words as the command would, and runs nothing


def test_all_files_have_commands() -> None:
    files = {path.name for path in (*UNITS, *DOCKERFILES, TRIAL)}
    assert {file for file, _ in commands()} >= files | {"statefulset.yaml"}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_run_as_nobody(file: Path) -> None:
    text = file.read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert re.findall(r"torch==([\d.]+)", text) == [pinned["torch"].partition("+")[0]]
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001$", last, re.MULTILINE)
    assert not re.search(r"\b(gcc|make|pip|git|curl|build-essential)\b", last)
    wants = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "hospital" in wants
    assert ("'.[hospital]'" in text) == file.name.startswith("site")  # a site reads what hospitals have


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_docker_is_sent_what_an_image_is_made_of_and_nothing_else(file: Path) -> None:
    lines = re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), re.MULTILINE)
    copied = [name for line in lines for name in line.split()[:-1]]
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied)


def test_the_trial_uses_the_images_that_compose_builds() -> None:
    built = {service["image"] for service in COMPOSE["services"].values()}
    assert set(re.findall(r"\bpmfed-[a-z]+:[\d.]+", TRIAL.read_text())) <= built


def test_compose_is_three_sites_and_nothing_reachable_from_outside() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"hub", "hospital-1", "hospital-2", "hospital-3"}
    assert COMPOSE["networks"]["wan"]["internal"]
    for service in services.values():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["image"].endswith(f":{pmfed.__version__}")
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert not {"ports", "privileged", "network_mode", "pid", "devices"} & set(service)


def test_the_charts_values_are_those_its_templates_read() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == pmfed.__version__
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["image"]["tag"] == pmfed.__version__
    read = set()
    for template in (CHART / "templates").iterdir():
        for path in re.findall(r"\.Values\.([\w.]+)", template.read_text()):
            place = values
            for key in path.split("."):
                assert key in place, (template.name, path)
                place = place[key]
            read.add(path.partition(".")[0])
    assert read == set(values)
    for example in CHART.glob("values-*.yaml"):
        assert set(yaml.safe_load(example.read_text())) <= set(values)


def test_the_proxys_file_is_what_start_writes() -> None:
    written = NGINX.format(user="", folder="/var/lib/pmfed/hub", port=9092, link_port=18000)
    assert (DEPLOY / "nginx.conf").read_text() == written


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    for other in UNITS:  # they may name each other
        text = re.sub(r"^(Exec\w+=)/opt/pmfed/bin/pmfed", r"\1/bin/true", other.read_text(), flags=re.MULTILINE)
        (tmp_path / other.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
