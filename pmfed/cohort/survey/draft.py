"""What a survey found, as lines of site.toml and of a study: to be edited, never to be used as they are.

Bounds, means and outcomes are left to people: they are public knowledge, and none may be measured on the patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from pmfed.cohort.contract.written import PLAIN, Written, written_of
from pmfed.cohort.survey.codes import RecordsFound
from pmfed.cohort.survey.columns import ColumnFound, TableFound
from pmfed.cohort.survey.files import FilesFound, GenomesFound, ScansFound
from pmfed.cohort.survey.folder import Survey
from pmfed.cohort.survey.names import key_of

_FEATURES = 60
"""Columns of a table that are proposed as inputs; of more, people choose."""

_OUTCOMES = ("outcome", "event", "dead", "death", "died", "status", "readmi", "class", "target", "label", "diagnos")


def sources(found: Survey) -> dict[str, Path]:
    """Return name -> place of everything that was found."""
    names: dict[str, Path] = {}
    every = [
        [one.path for one in found.tables],
        [one.path for one in found.records],
        [one.path for one in found.genomes],
    ]
    every += [[one.path for one in found.scans], [one.path for one in found.files]]
    for path in (path for paths in every for path in paths):
        stem = found.folder.name if path == found.folder else path.name.split(".")[0]
        names[key_of(stem, names)] = path
    return names


def data_lines(found: Survey) -> list[str]:
    """Return the lines of ``[data]``."""
    lines = []
    for name, path in sources(found).items():
        written = written_of(path)
        told: dict[str, Any] = {
            key: value for key in Written.model_fields if (value := getattr(written, key)) != getattr(PLAIN, key)
        }
        if not told:
            lines.append(_line(name, str(path)))
            continue
        inner = ", ".join(_line(key, value) for key, value in {"file": str(path), **told}.items())
        lines.append(f"{name} = {{ {inner} }}")
    return lines


def study_lines(found: Survey, name: str) -> list[str]:
    """Return the lines of a study that asks for all that was found."""
    named = {id(path): key for key, path in sources(found).items()}
    cohort = _cohort(found.tables)
    lines = [
        "# A draft: what 'pmfed site init --from' found. Nothing in it was measured on patients: fill in what is marked FILL IN",
        "# from public knowledge, take out what is not needed, then: pmfed study check FILE",
        "",
        "[study]",
        _line("name", key_of(name)),
        _line("title", "FILL IN"),
        "",
        "[cohort]",
        _line("table", named[id(cohort.path)] if cohort else "FILL IN"),
        _line("patient", (cohort.patient if cohort else "") or "FILL IN"),
        *_cohort_columns(cohort),
        "# expected_patients =                 # FILL IN: training patients over all hospitals, about",
        "",
        *_outcome(cohort),
    ]
    for key, block in _modalities(found, named, cohort):
        lines += ["", f"[modalities.{key}]", *block]
    return [
        *lines,
        "",
        "[privacy]",
        "# epsilon =                           # FILL IN",
        "# delta =",
        "# sampling_rate =",
    ]


def _cohort(tables: Sequence[TableFound]) -> TableFound | None:
    """Return the table that seems to list the patients: one row each, with an outcome if possible."""
    with_ids = [one for one in tables if one.patient]
    return max(with_ids, key=lambda one: (not one.several, _likely(one) is not None, len(one.columns)), default=None)


def _likely(table: TableFound) -> ColumnFound | None:
    """Return the column that seems to be an outcome: two words, and called like one."""
    pairs = [one for one in table.named("category") if len(one.words) == 2 and not one.more]
    return next((one for word in _OUTCOMES for one in pairs if word in one.name.lower()), None)


def _cohort_columns(cohort: TableFound | None) -> Iterator[str]:
    if cohort is None:
        return
    if cohort.several:
        yield '# record = ""                         # FILL IN: the column that tells a patient\'s rows apart'
    for date in cohort.named("date")[:1]:
        yield f"# {_line('index', date.name)}   # if inputs are to be those before that date"
    for one in cohort.named("category"):
        if "consent" in one.name.lower():
            yield _line("consent", one.name)


def _outcome(cohort: TableFound | None) -> Iterator[str]:
    likely = _likely(cohort) if cohort else None
    yield "[outcome]"
    yield _line("column", likely.name if likely else "FILL IN")
    yield _line("task", "binary")
    yield f"{_line('classes', list(likely.words) if likely else ['FILL IN', 'FILL IN too'])}   # the negative one first"


def _modalities(found: Survey, named: Mapping[int, str], cohort: TableFound | None) -> Iterator[tuple[str, list[str]]]:
    """Yield name and lines of each modality."""
    likely = _likely(cohort) if cohort else None
    taken: list[str] = []

    def key(path: Path) -> str:
        taken.append(key_of(named[id(path)], taken))
        return taken[-1]

    for table in found.tables:
        skipped = {likely.name} if likely and table is cohort else set()
        if lines := list(_table(table, named[id(table.path)], skipped)):
            name = key(table.path)
            yield name, [line.replace("[.", f"[modalities.{name}.") for line in lines]
        if calls := table.named("calls"):
            name = key_of(f"{named[id(table.path)]}-calls", taken)
            taken.append(name)
            yield name, list(_calls(calls, named[id(table.path)], name))
    for records in found.records:
        name = key(records.path)
        yield name, list(_events(records, named[id(records.path)], name))
        if records.written_notes:
            yield f"{name}-notes", [_line("kind", "notes"), _line("source", named[id(records.path)])]
    for genome in found.genomes:
        name = key(genome.path)
        yield name, list(_panel(genome, found.tables, named, name))
    for scan in found.scans:
        yield key(scan.path), list(_dicom(scan, found.tables, named))
    for files in found.files:
        name = key(files.path)
        yield name, list(_listed(files, _lists(found.tables, files), named, name))


def _table(table: TableFound, source: str, skipped: set[str]) -> Iterator[str]:
    columns = [
        one
        for one in table.named("number", "category")
        if one.name not in skipped and "consent" not in one.name.lower()
    ]
    if not columns or not table.patient:
        return
    yield _line("kind", "table")
    yield _line("table", source)
    if len(columns) > _FEATURES:
        yield f"# {len(columns):,} columns hold numbers or categories; the first {_FEATURES} are listed"
    keys: list[str] = []
    for one in columns[:_FEATURES]:
        keys.append(key_of(one.name, keys))
        yield from ("", f"[.features.{keys[-1]}]")
        if keys[-1] != one.name:
            yield _line("column", one.name)
        if one.holds == "number":
            yield from (_line("type", "numeric"), *_BOUNDS)
        else:
            yield _line("type", "categorical")
            yield _line("values", list(one.words))
            if one.more:
                yield "other = true"


_BOUNDS = ("# minimum =   # FILL IN: what is possible, not what was seen", "# maximum =")


def _calls(columns: Sequence[ColumnFound], source: str, name: str) -> Iterator[str]:
    yield _line("kind", "genotypes")
    yield _line("table", source)
    keys: list[str] = []
    for one in columns[:_FEATURES]:
        keys.append(key_of(one.name, keys))
        yield from ("", f"[modalities.{name}.variants.{keys[-1]}]")
        if keys[-1] != one.name:
            yield _line("column", one.name)
        yield "# alleles = []   # FILL IN: which are counted, and how frequent each is in public"
        yield "# frequency = []"


def _events(records: RecordsFound, source: str, name: str) -> Iterator[str]:
    yield f"# {records.kind}; needs 'index' in [cohort]"
    yield _line("kind", "events")
    yield _line("source", source)
    yield "sex = true"
    yield "age = {}"
    keys: list[str] = []
    for one in records.codes:
        keys.append(key_of(one.code, keys))
        yield from ("", f"[modalities.{name}.features.{keys[-1]}]{f'   # {one.words}' if one.words else ''}")
        yield _line("codes", [one.code])
        if one.measured:
            yield from (_line("value", "last"), _line("unit", one.unit or "FILL IN"), *_BOUNDS)
        else:
            yield _line("value", "ever")


def _panel(genome: GenomesFound, tables: Sequence[TableFound], named: Mapping[int, str], name: str) -> Iterator[str]:
    yield _line("kind", genome.kind)
    yield _line("source", named[id(genome.path)])
    yield _line("build", genome.build) if genome.build else '# build = ""   # FILL IN: GRCh37 or GRCh38'
    if link := _link(tables, genome.samples):
        yield _line("samples", named[id(link[0].path)])
        yield _line("sample", link[1])
    if genome.kind == "copy_number":
        yield from ("", f"# [modalities.{name}.regions.NAME]   # FILL IN", '# at = "22:42126499-42130881"')
        return
    if not genome.variants:
        yield from ("", f"# [modalities.{name}.variants.NAME]   # FILL IN: the variants that are asked for")
        yield from (
            '# at = "16:31096368"',
            '# reference = "C"',
            '# effect = "T"',
            "# frequency =   # of effect, in public",
        )
    keys: list[str] = []
    for one in genome.variants:
        keys.append(key_of(one.name, keys))
        yield from ("", f"[modalities.{name}.variants.{keys[-1]}]")
        yield from (
            _line("id", one.name),
            _line("at", one.at),
            _line("reference", one.reference),
            _line("effect", one.effect),
        )
        yield "# frequency =   # FILL IN: of effect, in public"


def _dicom(scan: ScansFound, tables: Sequence[TableFound], named: Mapping[int, str]) -> Iterator[str]:
    yield _line("kind", "dicom")
    yield _line("folder", named[id(scan.path)])
    series: dict[str, Any] = {"modality": list(scan.modalities[:1]) or ["FILL IN"]}
    parts = [one for one in scan.parts if one]
    yield f"series = {{ {', '.join(_line(key, value) for key, value in series.items())} }}"
    if len(scan.modalities) > 1:
        yield f"# there are also series of {', '.join(scan.modalities[1:])}"
    if parts:
        yield f"# parts of the body: {', '.join(parts[:8])}; choose with body_part = [\"...\"] in 'series'"
    yield from ("# size = [256, 256]   # FILL IN", '# window = [40, 400]   # FILL IN: or "bits", "own"')
    ids = [digests for one in tables for column, digests in one.ids.items() if column == one.patient]
    if scan.patients and not any(scan.patients & one for one in ids):
        link = _link(tables, scan.patients)
        table, column = (named[id(link[0].path)], link[1]) if link else ("FILL IN", "FILL IN")
        yield f'{"" if link else "# "}link = {{ {_line("table", table)}, by = "patient", {_line("column", column)} }}'


def _listed(
    files: FilesFound, table: tuple[TableFound, str] | None, named: Mapping[int, str], name: str
) -> Iterator[str]:
    yield _line("kind", files.kind)
    yield _line("folder", named[id(files.path)])
    if table is None:
        yield "# no table lists these files: make one with the columns patient_id and file"
    yield _line("table", named[id(table[0].path)] if table else "FILL IN")
    yield _line("file", table[1] if table else "file")
    if files.kind == "images":
        yield _line("size", list(files.sizes)) if files.sizes else '# size = [224, 224]   # FILL IN; and fit = "crop"'
    elif files.kind == "nifti":
        yield from ("# size = [64, 64, 64]   # FILL IN", "# window =   # FILL IN")
    else:
        yield _line("rate", files.rate) if files.rate else "# rate =   # FILL IN: samples a second"
        yield "# seconds =   # FILL IN"
        keys: list[str] = []
        for channel, unit in files.channels:
            keys.append(key_of(channel, keys))
            yield from ("", f"[modalities.{name}.channels.{keys[-1]}]", _line("column", channel), _line("unit", unit))


def _lists(tables: Sequence[TableFound], files: FilesFound) -> tuple[TableFound, str] | None:
    """Return the table, and its column, that lists most of some files."""
    best = [(len(known & files.names), table, column) for table in tables for column, known in table.ids.items()]
    number, table, column = max(best, key=lambda one: one[0], default=(0, None, ""))
    return (table, column) if table is not None and number else None


def _link(tables: Sequence[TableFound], ids: frozenset[int]) -> tuple[TableFound, str] | None:
    """Return the table, and its column beside the patient's, whose ids are those of most samples."""
    best = [
        (len(ids & known), table, column)
        for table in tables
        for column, known in table.ids.items()
        if table.patient and column != table.patient
    ]
    number, table, column = max(best, key=lambda one: one[0], default=(0, None, ""))
    return (table, column) if table is not None and 2 * number > len(ids) else None


def _line(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{_line(key, '')[:-2]}[{', '.join(_line('x', one)[4:] for one in value)}]"
    return tomli_w.dumps({key: value}).strip()


def summary(found: Survey) -> list[str]:
    """Return a line on each source, for people."""
    names = sources(found)
    named = {id(path): key for key, path in names.items()}
    lines = []
    for table in found.tables:
        kinds = f"{len(table.named('number'))} of numbers, {len(table.named('category'))} of categories"
        who = f"patients by '{table.patient}'" if table.patient else "no column seems to hold patients' ids"
        hidden = f"; {table.hidden} not shown" if table.hidden else ""
        lines.append(f"{named[id(table.path)]:<24} table of {len(table.columns)} columns: {kinds}{hidden}; {who}")
    lines += [f"{named[id(one.path)]:<24} {one.kind}, {len(one.codes)} codes proposed" for one in found.records]
    lines += [f"{named[id(one.path)]:<24} genomes{f', {one.build}' if one.build else ''}" for one in found.genomes]
    lines += [
        f"{named[id(one.path)]:<24} DICOM: {', '.join(one.modalities) or 'few of each kind'}" for one in found.scans
    ]
    words = {"images": "pictures", "nifti": "NIfTI", "signal": "waveforms"}
    lines += [f"{named[id(one.path)]:<24} {words[one.kind]}, listed by {_by(found, one, named)}" for one in found.files]
    return lines


def _by(found: Survey, files: FilesFound, named: Mapping[int, str]) -> str:
    table = _lists(found.tables, files)
    return f"'{table[1]}' of {named[id(table[0].path)]}" if table else "no table"
