"""The documentation says what the code says: keys, defaults, error codes, commands and links."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pmfed_client.site.policy import Policy
from pmfed_client.site.site import Accepted, CoordinatorAddress, Resident, _About, _Described, _File
from pmfed_simulations.protocols import COMPARISONS, PROTOCOLS
from pmfed_simulations.public import find
from pmfed_simulations.studies import built_in_studies
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pmfed import modality
from pmfed import study as studies
from pmfed.cli import app
from pmfed.cohort.contract.written import View
from pmfed.errors import ERRORS
from pmfed.modality import ehr, genomics, scans, signals
from pmfed.study import Study, augmentation, encoders, method, model, outcome, personal, robustness, training
from pmfed.study.outcomes import outcomes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])

# Heading -> the model whose keys stand in the table below it; pages of modalities read from sources of their own.
STUDY = {
    "`[study]`": studies.About,
    "`[cohort]`": studies.CohortSpec,
    "`[outcome]`": outcome.Outcome,
    '`kind = "table"`': modality.Table,
    '`kind = "genotypes"`': modality.Genotypes,
    '`kind = "images"`': modality.Images,
    "Layers": modality.Layered,
    "Weights file": modality.WeightsFile,
    '`type = "numeric"`': modality.Numeric,
    '`type = "categorical"`': modality.Categorical,
    "Variants": modality.Variant,
    "`[model]`": model.ModelSpec,
    '`kind = "mlp"`': encoders.Mlp,
    '`kind = "cnn"`': encoders.Cnn,
    '`kind = "resnet18"` and other networks of MONAI': encoders.Monai,
    '`kind = "gru"`': encoders.Recurrent,
    '`kind = "transformer"`': encoders.Transformer,
    "`[training]`": training.Training,
    "`[training.optimizer]`": training.Optimizer,
    "`[training.augmentation]`": augmentation.Augmentation,
    '`kind = "gradient"`': method.GradientMethod,
    '`kind = "tables"`': method.TablesMethod,
    "`[privacy]`": studies.Privacy,
    "`[aggregation]`": studies.Aggregation,
    "`[evaluation]`": studies.Evaluation,
    "`[recalibration]`": studies.RecalibrationSpec,
    "`[evaluation.robustness]`": robustness.Robustness,
    '`method = "fine-tune"`': personal.FineTune,
    '`method = "ditto"`': personal.Ditto,
    '`method = "head"`, `"norms"` or `"intercept"`': personal.LocalParts,
}
KINDS = {f'`task = "{task}"`': kind for task, kind in outcomes().items()}
SOURCES = {
    "ehr.md": {
        '`kind = "events"`': ehr.Events,
        "Age": ehr.Age,
        "Features": ehr.EventFeature,
        '`kind = "sequence"`': ehr.EventSequence,
        '`kind = "notes"`': ehr.Notes,
        '`kind = "signal"`': signals.Signals,
        "Channels": signals.SignalChannel,
    },
    "genomics.md": {
        '`kind = "panel"`': genomics.Panel,
        "Variants": genomics.PanelVariant,
        '`kind = "copy_number"`': genomics.CopyNumber,
        "Regions": genomics.Region,
        '`kind = "expression"`': genomics.Expression,
    },
    "imaging.md": {
        '`kind = "dicom"`': scans.Dicom,
        "Series": scans.Series,
        "Link": scans.Link,
        '`kind = "nifti"`': scans.Nifti,
    },
}
SITE = {"`[site]`": _About, "`[coordinator]`": CoordinatorAddress, "`[agent]`": Resident, "`[policy]`": Policy,
    "How a table is written": _Described, "A view of a database": View, "`[[accept]]`": Accepted,
}  # fmt: skip


def sections(page: Path) -> dict[str, str]:
    """Return heading -> the text up to the next heading, whatever its level."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    parts = re.split(r"^#+ +(.+?) *$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(section: str) -> dict[str, str]:
    """Return key -> what the column "Default" says."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", section, flags=re.M)
    assert len(rows) == len({key for key, _ in rows}), "a key stands twice"
    return dict(rows)


def spelled(field: FieldInfo) -> str:
    """Return a key's default as a page spells it."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default == {}:
        return "none"
    if isinstance(default, BaseModel):
        return "see text"
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f"`{default}`"


def models_in(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model and all that its fields are made of."""
    found = {model}

    def look(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.update(models_in(annotation))
        for inner in get_args(annotation):
            look(inner)

    for field in model.model_fields.values():
        look(field.annotation)
    return found


def test_every_model_has_a_section() -> None:
    elsewhere = {model for page in SOURCES.values() for model in page.values()}
    assert models_in(Study) - {Study} == set(STUDY.values()) | elsewhere
    assert models_in(_File) - {_File} == set(SITE.values())


@pytest.mark.parametrize(
    ("page", "heading", "model"),
    [("study.md", *pair) for pair in STUDY.items()]
    + [("site.md", *pair) for pair in SITE.items()]
    + [(page, *pair) for page, told in SOURCES.items() for pair in told.items()],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_key_and_its_default_are_documented(page: str, heading: str, model: type[BaseModel]) -> None:
    told = table(sections(DOCS / page)[heading])
    assert told == {name: spelled(field) for name, field in model.model_fields.items()}


@pytest.mark.parametrize("heading", KINDS)
def test_every_key_of_every_kind_of_outcome_is_documented(heading: str) -> None:
    common = {name: spelled(field) for name, field in outcome.Outcome.model_fields.items()}
    own = {name: spelled(field) for name, field in KINDS[heading].model_fields.items() if name != "task"}
    assert table(sections(DOCS / "study.md")[heading]) == {k: said for k, said in own.items() if common.get(k) != said}
    kinds = sections(DOCS / "study.md")["`[outcome]`"]
    task = KINDS[heading].model_fields["task"].default
    assert f'| `"{task}"` |' in kinds
    assert (
        re.search(rf"^\| {task} \|", (DOCS / "predict.md").read_text(encoding="utf-8"), flags=re.M)
        or task == "segmentation"
    )


def test_sections_of_the_files_are_documented() -> None:
    for page, whole in (("study.md", Study), ("site.md", _File)):
        headings = " ".join(sections(DOCS / page))
        for name in whole.model_fields:
            assert f"`[{name}]`" in headings or f"`[[{name}]]`" in headings or f"`[{name}.NAME]`" in headings, (
                f"{page}: [{name}]"
            )


def examples(page: str, first: str) -> list[str]:
    """Return the TOML examples of a page that hold a whole file."""
    blocks = re.findall(r"^```toml\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.S | re.M)
    return [block for block in blocks if block.startswith(first)]


def test_examples_are_valid(tmp_path: Path) -> None:
    (whole,) = examples("study.md", "[study]")
    Study.from_text(whole, "study.md")
    (site,) = examples("site.md", "[site]")
    (tmp_path / "site.toml").write_text(site, encoding="utf-8")
    from pmfed_client.site.site import Site

    Site.read(tmp_path)


def test_every_error_code_is_documented() -> None:
    found = sections(DOCS / "errors.md")
    codes = {heading for heading in found if heading.startswith("PM")}
    assert codes == set(ERRORS)
    for code, error in ERRORS.items():
        assert found[code].strip().startswith(f"`{error.__name__}`, exit code {error.exit_code}. "), code
        assert f"| [{code}](#{code.lower()}) | `{error.__name__}` | {error.exit_code} |" in found["Errors"], code


def commands() -> list[tuple[str, list[str]]]:
    """Return (page, words) of every pmfed and make command line in a code block."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                try:
                    words = shlex.split(line.removeprefix("$ "), comments=True)
                except ValueError:  # no shell: an apostrophe in a file listing
                    continue
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words and os.path.basename(words[0]) in ("pmfed", "make"):
                    found.append((page.name, words))
    return found


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse a command line with the real options, run nothing; return the command's name and what it would be given."""
    given: dict[str, Any] = {}
    names: list[str] = []

    def quiet(command: Any, name: str) -> None:
        if hasattr(command, "commands"):
            for below, one in command.commands.items():
                quiet(one, f"{name} {below}".strip())
        else:
            command.callback = lambda **values: (names.append(name), given.update(values))

    root: Any = typer.main.get_command(app)
    quiet(root, "")
    root.main(words, prog_name="pmfed", standalone_mode=False)
    return (names or [""])[0], given


def test_every_built_in_study_is_documented() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "simulate.md").read_text(encoding="utf-8"), flags=re.M)
    told = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert set(built_in_studies()) <= set(told)


def test_there_are_commands_to_check() -> None:
    assert len([words for _, words in commands() if words[0] == "pmfed"]) >= 10


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else None)
def test_every_command_shown_parses(page: str, words: list[str]) -> None:
    if os.path.basename(words[0]) == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        assert set(words[1:]) <= set(targets), f"{page}: {shlex.join(words)}"
        return
    name, given = parsed(words[1:])
    if name == "simulate":
        assert given["study"] in built_in_studies() or given["study"].endswith(".toml")
        assert given["protocol"] in PROTOCOLS
        assert given["engine"] in ("local", "ray")
        assert set((given["compare"] or "none").split(",")) <= {*COMPARISONS, "none"}
    elif name in ("study check", "study plan"):
        assert given["study"] in built_in_studies() or given["study"].endswith(".toml")
    elif name == "data get":
        find(given["name"])


def test_a_wrong_command_would_be_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["simulate", "--epsilom", "1"])
    with pytest.raises(Exception, match="No such command"):
        parsed(["simulat"])


def anchors(page: Path) -> set[str]:
    """Return the anchors a page's headings make, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in sections(page))
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"
