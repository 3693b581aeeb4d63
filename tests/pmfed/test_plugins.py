"""Plug-ins: only what a study names and a policy admits is loaded, and what is loaded keeps pmfed's promises."""

from __future__ import annotations

import re
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from plugin import installed, write_package
from pmfed_client.agent.agent import Agent
from pmfed_client.site.approve import approve, read_study, terms
from pmfed_client.site.site import Site
from pmfed_simulations.rosters import pin_rosters
from small import AGE, small_study

from pmfed import plugins
from pmfed.errors import PolicyError, StudyError
from pmfed.methods import schedule
from pmfed.models import build
from pmfed.study import Study
from pmfed.wire import Request, dump, parse_reply

LABS: dict[str, Any] = {"labs": {"kind": "table", "table": "patients", "features": AGE}}
NUMBERS = count()

ENCODER = """\
from typing import Literal
from pmfed.study.encoders import PluginEncoder

class Wide(PluginEncoder):
    kind: Literal["{kind}"] = "{kind}"
    width: int = 3

    def network(self, shape, embedding):
        from torch import nn
        return nn.Sequential(nn.Linear(shape[0], self.width), nn.Tanh(), nn.Linear(self.width, embedding))
"""


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plugins.Plugin:
    """An installed package with an encoder that nothing has loaded yet."""
    number = next(NUMBERS)
    kind = f"wide{number}"
    folder = write_package(tmp_path / "lib", f"wide-{number}", ENCODER.format(kind=kind), {"encoders": {kind: "Wide"}})
    monkeypatch.syspath_prepend(str(folder))
    return installed("encoders", kind)


def with_encoder(kind: str, *packages: str) -> Study:
    return small_study(LABS, study={"packages": list(packages)}, model={"kind": "fusion", "encoders": {"labs": {"kind": kind}}})  # fmt: skip


def told(kind: str, *packages: str) -> str:
    """Return a study.toml that uses an encoder."""
    mlp = small_study(LABS, model={"kind": "fusion", "encoders": {"labs": {"kind": "mlp", "hidden": [3]}}}).to_toml()
    named = mlp.replace('kind = "mlp"', f'kind = "{kind}"').replace("hidden = [\n    3,\n]", "width = 3")
    return named.replace("[study]", f"[study]\npackages = {[*packages]}") if packages else named


def is_loaded(plugin: plugins.Plugin) -> bool:
    return plugin.entry.module in sys.modules


def test_a_study_loads_what_it_names_and_keeps_its_fingerprint(encoder: plugins.Plugin) -> None:
    small_study(LABS)
    assert not is_loaded(encoder), "another study"
    study = with_encoder(encoder.kind, f"Wide_{encoder.kind.removeprefix('wide')} 1.0")
    assert is_loaded(encoder)
    assert study.plug_ins == (encoder,)
    assert Study.parse(study.canonical()) == study
    assert sum(weights.numel() for weights in build(study).parameters()) > 0
    assert small_study(LABS).plug_ins == ()


def test_the_hash_is_of_what_came_with_the_package(tmp_path: Path) -> None:
    """Not of what an installer adds for one machine: else no hospital would see the researcher's."""
    points = {"encoders": {"never": "Wide"}}
    records = set()
    for place in ("a", "b"):
        folder = write_package(tmp_path / place, "never-loaded", ENCODER, points)
        record = next(folder.glob("*.dist-info/RECORD"))
        if place == "b":
            info = record.parent.name
            record.write_text(f"../../bin/tool,sha256=y,3\n{info}/direct_url.json,sha256=z,5\n" + record.read_text())
        sys.path.insert(0, str(folder))
        try:
            records.add(installed("encoders", "never").record)
        finally:
            sys.path.remove(str(folder))
    assert len(records) == 1
    assert len(*records) == 64


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "does not list it"),
        (("wide-N 1.1 sha256:RECORD",), "lists wide-N 1.1"),
        (("wide-N 1.0 sha256:" + "0" * 64,), "lists wide-N 1.0"),
        (("wide-other 1.0 sha256:RECORD",), "does not list it"),
    ],
)
def test_what_a_policy_does_not_admit_is_not_loaded(encoder: plugins.Plugin, lines: tuple[str, ...], why: str) -> None:
    def here(text: str) -> str:
        return text.replace("wide-N", encoder.distribution).replace("RECORD", encoder.record)

    with plugins.admitting([here(line) for line in lines]), pytest.raises(PolicyError, match=here(why)) as caught:
        with_encoder(encoder.kind, f"{encoder.distribution} 1.0")
    assert not is_loaded(encoder)
    assert f'plugins = ["{encoder.line}"]' in caught.value.remedy
    with plugins.admitting([encoder.line]):
        with_encoder(encoder.kind, f"{encoder.distribution} 1.0")
    with plugins.admitting([]), pytest.raises(PolicyError, match="does not list it"):
        with_encoder(encoder.kind, f"{encoder.distribution} 1.0")  # loaded by now, and still not admitted


@pytest.mark.parametrize("what", ["the code", "RECORD", "code outside RECORD"])
def test_changed_files_are_refused_before_they_run(encoder: plugins.Plugin, what: str, tmp_path: Path) -> None:
    module = next(tmp_path.rglob("wide_*.py"))
    record = next(tmp_path.rglob("RECORD"))
    if what == "the code":
        module.write_text(module.read_text() + "# more\n")
        why = "are not those that its RECORD says"
    elif what == "RECORD":
        record.write_text(record.read_text() + "more.py,sha256=abc,3\n")
        why = r"\[policy\] plugins lists"
    else:
        record.write_text("".join(line for line in record.read_text().splitlines(True) if not line.startswith("wide_")))
        why = "not in its RECORD"
    with plugins.admitting([encoder.line]), pytest.raises(PolicyError, match=why):
        with_encoder(encoder.kind, f"{encoder.distribution} 1.0")
    assert not is_loaded(encoder)


@pytest.mark.parametrize(
    ("packages", "why"),
    [
        ((), "study.packages: the encoder '{kind}' comes from the package {name} 1.0, which the study does not name"),
        (("{name} 2.0",), "the study asks for {name} 2.0: pip install {name}==2.0"),
        (("{name} 1.0 sha256:" + "0" * 64,), "other files of {name} 1.0"),
    ],
)
def test_a_study_says_from_which_package_its_plugins_are(
    encoder: plugins.Plugin, packages: tuple[str, ...], why: str
) -> None:
    names = {"kind": encoder.kind, "name": encoder.distribution}
    text = told(encoder.kind, *(one.format(**names) for one in packages))
    with pytest.raises(StudyError, match=re.escape(why.format(**names))) as caught:
        Study.from_text(text, "study.toml")
    assert re.match(r"study\.toml:[1-9]", caught.value.what), "names a line"
    assert not is_loaded(encoder)


def test_what_is_not_installed_is_named_with_its_package() -> None:
    with pytest.raises(
        StudyError, match=r"study.toml:\d+: model.encoders.labs.kind: the encoder 'nowhere' is not installed here"
    ):
        Study.from_text(told("nowhere", "some-package 2.1"), "study.toml")


def test_two_packages_with_one_kind_are_refused(encoder: plugins.Plugin, tmp_path: Path) -> None:
    write_package(tmp_path / "lib", "another", ENCODER.format(kind=encoder.kind), {"encoders": {encoder.kind: "Wide"}})
    with pytest.raises(StudyError, match="offered by 2 installed packages: another, wide"):
        with_encoder(encoder.kind, f"{encoder.distribution} 1.0")


# -- a site -----------------------------------------------------------------------------------------------------------


def site(folder: Path, policy: str = "") -> Site:
    folder.mkdir(exist_ok=True)
    (folder / "site.toml").write_text(
        f'[site]\nname = "east"\n[data]\npatients = "patients.csv"\n[policy]\nepsilon = 20.0\ndelta = 1e-3\n{policy}'
    )
    return Site.read(folder)


def reply_to(agent: Agent, text: str, fingerprint: str) -> str:
    request = Request(kind="enroll", run="ab" * 16, study=fingerprint, sites=2, text=text)
    reply = parse_reply(agent.handle(dump(request), {})[0])
    assert not reply.ok
    return reply.reason


def test_a_site_reads_approves_and_names_what_it_admits(encoder: plugins.Plugin, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(told(encoder.kind, f"{encoder.distribution} 1.0"))
    closed = site(tmp_path / "east")
    with pytest.raises(PolicyError, match="does not list it"):
        read_study(closed, path)
    assert not is_loaded(encoder)
    study = Study.read(path)
    with pytest.raises(PolicyError, match="does not list it"):
        approve(closed, study, lambda lines: True)
    opened = site(tmp_path / "east", f'plugins = ["{encoder.line}"]\n')
    page = "\n".join(terms(opened, read_study(opened, path)))
    assert f"encoder '{encoder.kind}' of the package {encoder.distribution} 1.0, sha256" in page


def test_no_study_that_is_only_sent_makes_code_run(encoder: plugins.Plugin, tmp_path: Path) -> None:
    """An agent loads plug-ins for a study that its hospital approved, and for no other, whatever its policy lists."""
    place = site(tmp_path / "east", f'plugins = ["{encoder.line}"]\n')
    pin_rosters([place])
    text = small_study(LABS, model={"kind": "fusion", "encoders": {"labs": {"kind": "mlp"}}}).canonical()
    sent = text.replace('"kind":"mlp"', f'"kind":"{encoder.kind}"').replace('"hidden":[32],', "")
    assert "has not approved the study" in reply_to(Agent(place, resident=True), sent, "ab" * 32)
    assert not is_loaded(encoder)


def test_a_site_says_which_package_it_lacks(tmp_path: Path) -> None:
    place = site(tmp_path / "east")
    pin_rosters([place])
    text = small_study(
        LABS, study={"packages": ["some-package 2.1"]}, model={"kind": "fusion", "encoders": {"labs": {"kind": "mlp"}}}
    ).canonical()
    reason = reply_to(Agent(place), text.replace('"kind":"mlp"', '"kind":"nowhere"'), "ab" * 32)
    assert "the encoder 'nowhere' is not installed here; the study takes it from some-package 2.1" in reason


# -- readers and outcomes ---------------------------------------------------------------------------------------------

READER = """\
from typing import Literal
from pmfed.cohort.readers import Reader
from pmfed.modality import Modality

class Beats(Modality):
    kind: Literal["beats"] = "beats"
    folder: str

    @property
    def sources(self):
        return (self.folder,)

    @property
    def names(self):
        return ("beats",)

READER = Reader(Beats, lambda reading: reading.absent())
"""
OUTCOME = """\
from typing import Literal
from pmfed.study.outcomes.binary import BinaryOutcome
from pmfed.tasks.binary import Binary

class Sign(BinaryOutcome):
    task: Literal["sign"] = "sign"
    since_first = False

class Silent(BinaryOutcome):
    task: Literal["silent"] = "silent"
    link = ""

class Mixed(BinaryOutcome):
    task: Literal["mixed"] = "mixed"
    since_first = False
    scored_by = "signs:MixedTask"

class MixedTask(Binary):
    def loss(self, outputs, targets):
        return super().loss(outputs - outputs.mean(0), targets)
"""


def test_readers_and_outcomes_come_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "beats", READER, {"readers": {"beats": "READER"}})
    write_package(tmp_path, "signs", OUTCOME, {"outcomes": {"sign": "Sign", "silent": "Silent", "mixed": "Mixed"}})
    monkeypatch.syspath_prepend(str(tmp_path))
    beats = {"kind": "beats", "folder": "watch"}
    study = small_study(
        {**LABS, "heart": beats}, study={"packages": ["beats 1.0", "signs 1.0"]}, outcome={"task": "sign"}
    )
    assert [one.kind for one in study.plug_ins] == ["sign", "beats"]
    assert study.inputs["heart"] == ("beats",)
    assert Study.parse(study.canonical()).fingerprint() == study.fingerprint()
    assert schedule(study)
    mixed = small_study(LABS, study={"packages": ["signs 1.0"]}, outcome={"task": "mixed"})
    with pytest.raises(StudyError, match="the loss of a record depends on the other records"):
        schedule(mixed)[0].size  # noqa: B018 - the model is made
    with pytest.raises(StudyError, match="does not answer link"):
        small_study(LABS, study={"packages": ["signs 1.0"]}, outcome={"task": "silent"})
