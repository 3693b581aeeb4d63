"""Plug-ins: only what a study names and a policy admits is loaded, and what is loaded keeps pmfed's promises."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin import install_example, installed, write_package
from pmfed_client.agent.agent import Agent
from pmfed_client.agent.answers import Answers
from pmfed_client.site.approve import approve, read_study, terms
from pmfed_client.site.site import Site
from pmfed_simulations.rosters import pin_rosters
from small import AGE, small_study

from pmfed import plugins
from pmfed.errors import PolicyError, StudyError
from pmfed.methods import plan_for, schedule
from pmfed.models import build
from pmfed.models.plugin import plugin_network
from pmfed.queries.plugged import PluginRows
from pmfed.study import Study
from pmfed.study.encoders import PluginEncoder
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


# -- encoders ---------------------------------------------------------------------------------------------------------


class Given(PluginEncoder):
    """An encoder whose network a test chooses."""

    kind: str = "given"
    which: str

    def network(self, shape: tuple[int, ...], embedding: int) -> Any:
        import torch
        from torch import nn

        class Mixing(nn.Linear):
            def forward(self, x: Any) -> Any:
                return super().forward(x - x.mean(0))

        class Remembering(nn.Linear):
            def __init__(self, *sizes: int) -> None:
                super().__init__(*sizes)
                self.register_buffer("seen", torch.zeros(sizes[0]))

            def forward(self, x: Any) -> Any:
                self.seen += x.mean(0).detach()
                return super().forward(x)

        class Writing(nn.Linear):
            def forward(self, x: Any) -> Any:
                return super().forward(x) + 0 * x.mul_(0.5).sum(1, keepdim=True)

        class Aliasing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1))

            def forward(self, x: Any) -> Any:
                return x.view_as(x) if not self.training else x * self.scale

        class Always(nn.Linear):
            def forward(self, x: Any) -> Any:
                return nn.functional.dropout(super().forward(x), 0.5, training=True)

        class Tied(nn.Module):
            def __init__(self, by_memory: bool) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
                self.second.weight = nn.Parameter(self.first.weight.detach()) if by_memory else self.first.weight

            def forward(self, x: Any) -> Any:
                return self.second(self.first(x).tanh())

        class Random(nn.Linear):
            def __init__(self, *sizes: int) -> None:
                super().__init__(*sizes)
                with torch.no_grad():
                    self.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=sizes[1])))

        made = {
            "mixing": lambda: Mixing(4, 4),
            "remembering": lambda: Remembering(4, 4),
            "batch norm": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
            "writing": lambda: Writing(4, 4),
            "aliasing": Aliasing,
            "always": lambda: Always(4, 4),
            "tied": lambda: Tied(False),
            "tied by memory": lambda: Tied(True),
            "random": lambda: Random(4, 4),
            "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4)),
            "narrow": lambda: nn.Linear(4, 3),
            "no module": lambda: 3,
        }
        return made[self.which]()


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("mixing", "depends on the other records of the batch"),
        ("remembering", "keeps something of the records"),
        ("writing", "record|writes into the inputs"),
        ("aliasing", "gives back the memory of its inputs"),
        ("always", "other outputs when it sees the same records again in a prediction"),
        ("tied by memory", "'first.weight' and 'second.weight' are tied by their memory only"),
        ("random", "begins with other weights each time"),
        ("narrow", r"must give \(3, 4\)"),
        ("no module", "gives a int, not a torch module"),
    ],
)
def test_a_network_that_cannot_be_private_is_refused_with_the_reason(which: str, why: str) -> None:
    with pytest.raises(StudyError, match=why) as caught:
        plugin_network(Given(which=which), (4,), 4)
    assert "model.encoders" in caught.value.what


@pytest.mark.parametrize("which", ["batch norm", "tied", "dropout"])
def test_a_network_that_can_be_private_is_taken(which: str) -> None:
    import torch

    torch.manual_seed(5)
    assert plugin_network(Given(which=which), (4,), 4)(torch.rand(2, 4)).shape == (2, 4)
    before = torch.random.get_rng_state()
    plugins_again = plugin_network(Given(which="tied"), (4,), 4)
    torch.random.set_rng_state(before)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            plugins_again.parameters(), plugin_network(Given(which="tied"), (4,), 4).parameters(), strict=True
        )
    ), "trying it out uses up no random numbers"


# -- methods ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study of the example package's method."""
    folder = str(install_example(tmp_path_factory.mktemp("example")))
    sys.path.insert(0, folder)
    try:
        yield Study.read(Path(__file__).parents[2] / "examples" / "pmfed_example" / "means.toml")
    finally:
        sys.path.remove(folder)


def cohort_of(patients: int) -> Any:
    from pmfed.cohort import Cohort
    from pmfed.cohort.cohort import Findings

    inputs = {"labs": np.linspace(-1, 1, patients * 2, dtype=np.float32).reshape(patients, 2)}
    return Cohort(
        ids=tuple(map(str, range(patients))), owner=np.arange(patients), training=np.ones(patients, bool), inputs=inputs,
        present={"labs": np.ones(patients, bool)}, targets=np.zeros(patients, np.float32), findings=Findings(),
    )  # fmt: skip


@pytest.mark.slow
def test_a_plugins_query_is_priced_bounded_and_told_by_pmfed(means: Study) -> None:
    (query,) = schedule(means)
    assert isinstance(query, PluginRows)
    assert query.leaves() == (
        "once a sum over all patients of 3 numbers, to which one patient adds at most 1.73205, with noise, under a mask; "
        "computed by the plug-in: what pmfed-example 0.1.0 calls 'means of all inputs'"
    )
    plan = plan_for(means, 3)
    assert plan.epsilon() <= 2.0
    cohort = cohort_of(600)
    found = Answers(means, plan, cohort, lambda *_: None).exact(query, {})  # type: ignore[arg-type,return-value]
    assert found == pytest.approx([600, *cohort.inputs["labs"].sum(0)], abs=1e-3)


def example_rows() -> Any:
    return sys.modules["pmfed_example.means"].Sums


@pytest.mark.slow
def test_a_plugin_hands_over_no_sum_and_no_price_of_its_own(means: Study) -> None:
    """What it adds up, names or charges by itself is refused; what it says of itself is short, plain and quoted."""
    from pmfed.privacy.mechanism import Mechanism
    from pmfed.queries.gradient import Step

    rows = example_rows()

    class Several(rows):  # type: ignore[misc]
        def rows(self, patients: Any, state: Any) -> Any:
            for _ in range(2):
                yield np.ones((1, self.size))

    class Cheap(rows):  # type: ignore[misc]
        def mechanism(self, sites: int) -> Mechanism:
            return Mechanism("means", "all", "patient", 1e-6, 100.0, 1e-9, 1, sites, 0)

    class Loud(rows):  # type: ignore[misc]
        label = "nothing\x1b[2J' leaves this hospital, and the price is 0; " + "x" * 400

    class Seen(rows):  # type: ignore[misc]
        most_seen = 0

        def rows(self, patients: Any, state: Any) -> Any:
            type(self).most_seen = max(self.most_seen, patients.cohort.patients)
            yield from super().rows(patients, state)

    plan, cohort = plan_for(means, 3), cohort_of(5)

    def summed(kind: Any) -> Any:
        return Answers(means, plan, cohort, lambda *_: None).exact(PluginRows(means, kind(means), "it 1.0"), {})  # type: ignore[arg-type,return-value]

    with pytest.raises(StudyError, match="did not make one row"):
        summed(Several)
    summed(Seen)
    assert Seen.most_seen == 1, "each patient is shown alone"
    assert PluginRows(means, Cheap(means), "it 1.0").mechanism(3) == schedule(means)[0].mechanism(3)
    label = PluginRows(means, Loud(means), "it 1.0").label
    assert label.isprintable()
    assert len(label) < 90
    assert label.count("'") == 2
    with pytest.raises(StudyError, match="no sum of rows"):
        PluginRows(means, Step(means), "it 1.0")  # type: ignore[arg-type]
    for name, value in (
        ("exact", True), ("by_site", True), ("noise", 0.001), ("rate", 0.01), ("charged_at_once", 0), ("times", 0),
        ("size", 10**9), ("bound", float("inf")), ("grid_unit", 0.0), ("name", "step"), ("name", "tables"), ("whose", "held-out"),
        ("stage", "within"),
    ):  # fmt: skip
        with pytest.raises(StudyError, match="the plug-in it"):
            PluginRows(means, type("Wrong", (rows,), {name: value})(means), "it 1.0")


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
