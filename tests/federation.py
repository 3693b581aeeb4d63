"""A federation small enough for tests: three sites with CSV tables, a site.toml each, and a study.toml.

Patient ids and one column carry canaries that must never be seen outside the sites' own folders.
"""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.site.site import Site, read_sites
from pmfed_server.outcome import RunOutcome
from pmfed_simulations.rosters import pin_rosters

from pmfed.methods.gradient import Gradient
from pmfed.models import build, flatten
from pmfed.study import Study
from pmfed.wire import Kind, Reply, Request, dump, parse_reply

SITES = ("north", "south", "west")
PATIENTS = 60
ROUNDS = 6
ID_CANARY = "canary-4711"  # every patient id begins with it
VALUE_CANARY = "73.91826"  # every value of column 'marker' begins with it

STUDY = """\
[study]
name = "tiny"
title = "A tiny study"

[cohort]
table = "patients"
patient = "patient_id"
expected_patients = 144

[outcome]
column = "died"
task = "binary"
classes = ["no", "yes"]
baseline = 0.4

[modalities.clinical]
kind = "table"
table = "patients"

[modalities.clinical.features]
age = { type = "numeric", minimum = 0, maximum = 120, mean = 60, scale = 15 }
lactate = { type = "numeric", minimum = 0, maximum = 30, mean = 3, scale = 2, indicator = true }
marker = { type = "numeric", minimum = 0, maximum = 100, mean = 50, scale = 25 }
sex = { type = "categorical", values = ["f", "m"] }

[training]
rounds = 6
quorum = 0.6

[training.optimizer]
name = "momentum"
learning_rate = 0.2

[privacy]
epsilon = 2.0
delta = 1e-3
sampling_rate = 0.5
colluders = 1

[evaluation]
split_key = "tiny"
every = 3
release = "exact"
per_site = true
"""

SITE = """\
[site]
name = "{name}"

[data]
patients = "patients.csv"

[policy]
min_patients = 20
epsilon = 2.5
delta = 1e-3
exact_metrics = true
per_site_metrics = true
"""

COLUMNS = ("patient_id", "age", "lactate", "marker", "sex", "died")


def write_federation(folder: Path, patients: int = PATIENTS) -> Path:
    """Write FOLDER/study.toml and FOLDER/sites/<site>/; return FOLDER."""
    (folder / "sites").mkdir(parents=True)
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    for name in SITES:
        chance = random.Random(name)
        place = folder / "sites" / name
        place.mkdir()
        (place / "site.toml").write_text(SITE.format(name=name), encoding="utf-8")
        with (place / "patients.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for number in range(patients):
                age, lactate = round(chance.gauss(60, 12), 1), round(chance.uniform(0.5, 9), 2)
                died = chance.random() < 1 / (1 + 2.718 ** -((age - 60) / 12 + (lactate - 5) / 2))
                table.writerow(
                    (
                        f"{ID_CANARY}-{name}-{number}",
                        age,
                        "" if chance.random() < 0.1 else lactate,
                        f"{VALUE_CANARY}{chance.randrange(10**6):06d}",
                        chance.choice("fm"),
                        "yes" if died else "no",
                    )
                )
    return folder


def change(path: Path, pattern: str, replacement: str) -> None:
    """Change the one place of a text file that matches."""
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, (path, pattern, count)
    path.write_text(text, encoding="utf-8")


def asking(what: str) -> dict[str, Any]:
    """Return kind and query of a message that is told by either."""
    return {"kind": what} if what in get_args(Kind) else {"kind": "ask", "query": what}


class Together:
    """The agents of all sites, asked by a test in the coordinator's place."""

    def __init__(self, folder: Path, study: Study, rehearsal: Rehearsal | None = None, run: str = "ab" * 16) -> None:
        self.study, self.run, self.rehearsal = study, run, rehearsal
        self.sites: dict[str, Site] = {site.name: site for site in read_sites(folder)}
        pin_rosters(list(self.sites.values()))
        self.agents = {name: Agent(site, rehearsal=rehearsal) for name, site in self.sites.items()}
        self.start = flatten(build(study))

    def ask(
        self, name: str, kind: str, round: int = 0, attempt: int = 0, *, sites: Any = SITES, text: str = "",
        arrays: dict[str, Any] | None = None, study: Study | None = None, run: str | None = None,
    ) -> tuple[Reply, dict[str, Any]]:  # fmt: skip
        """Ask one site; ``kind`` may be that of a message or name a query, ``sites`` are those said to take part."""
        study = study or self.study
        request = Request(
            **asking(kind), run=run or self.run, study=study.fingerprint(), round=round, attempt=attempt, sites=len(sites),
            roster=() if kind in ("enroll", "keys", "finish") else tuple(sites),
            text=study.canonical() if kind == "enroll" and not text else text,
        )  # fmt: skip
        if arrays is None:
            arrays = {"parameters": self.start} if kind in ("step", "evaluation", "personal-evaluation") else {}
        answer, sums = self.agents[name].handle(dump(request), arrays)
        return parse_reply(answer), dict(sums)

    def enrol(self) -> Together:
        """Enrol every site and introduce them to each other."""
        cards = []
        for name in self.agents:
            reply, _ = self.ask(name, "enroll", sites=tuple(self.agents))
            assert reply.ok, reply.reason
            cards.append(json.loads(reply.text)["card"] if reply.text else None)
        if all(cards):
            for name in self.agents:
                reply, _ = self.ask(name, "keys", sites=tuple(self.agents), text=json.dumps(cards))
                assert reply.ok, reply.reason
        return self

    def sum(self, kind: str, round: int = 0, attempt: int = 0, *, sites: Any = SITES, **more: Any) -> Any:
        """Return the sum of what these sites answer, in words."""
        told = [self.ask(name, kind, round, attempt, sites=sites, **more) for name in sites]
        assert all(reply.ok for reply, _ in told), [reply.reason for reply, _ in told]
        assert all(set(sums) <= {"sum", "site"} for _, sums in told)
        return np.add.reduce([sums["sum"] for _, sums in told], dtype=told[0][1]["sum"].dtype)


def trained(outcome: RunOutcome) -> Gradient:
    """Return what a run came to that trained a model."""
    assert isinstance(outcome.method, Gradient)
    return outcome.method
