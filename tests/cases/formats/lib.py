"""Tiny synthetic inputs through pmfed's readers. `python cases.py` prints one line per case: OK (right value, or a
problem or warning that says so) or FAIL (silently wrong, lost with a count only, or a legal file refused).
All values are invented. Run with pmfed's own Python: PYTHON cases.py [id ...]"""
import io, json, os, shutil, subprocess, sys, tempfile, warnings
from pathlib import Path
import numpy as np
warnings.simplefilter("ignore")
import pmfed, pmfed.cohort.images
sys.path.insert(0, str(Path(pmfed.__file__).parents[1] / "tests"))  # readings.py makes the one thing that readers are given
import readings
from pmfed.cohort.tables import Problems
pmfed.cohort.images.read_images = readings.read_images  # where a case looks for it

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
CASES = []

def case(id, source, expected):
    def keep(f): CASES.append((id, source, expected, f)); return f
    return keep

def main():
    wanted, bad = set(sys.argv[1:]), 0
    for id, source, expected, f in CASES:
        if wanted and id not in wanted: continue
        with tempfile.TemporaryDirectory() as t:
            try: ok, got = f(Path(t))
            except Exception as error: ok, got = False, f"crash: {type(error).__name__}: {error}"
        bad += not ok
        print(f"{'OK  ' if ok else 'FAIL'} {id:18s} want {expected} | got {str(got)[:150].replace(t, '...')}")
    sys.exit(bad > 0)

def said(p, w): return bool(p._found) or bool(w)
def text(p): return " / ".join(e.what for e in p._found)
def near(a, b): return bool(np.allclose(a, b, atol=2e-3, equal_nan=True))

# --- records -------------------------------------------------------------------------------------------------------
def ehr(source, feature, patients=("1",), when="2021-01-01"):
    """Value per patient (NaN: missing), problems, warnings."""
    from readings import read_events
    from pmfed.modality.ehr import Events
    f = dict(feature)
    if f["value"] in ("last", "mean", "minimum", "maximum"): f = {"minimum": 0, "maximum": 1e6, "mean": 0, "scale": 1, "indicator": True, **f}
    if f["value"] == "count": f = {"maximum": 100, "mean": 0, "scale": 1, **f}
    spec = Events.model_validate({"kind": "events", "source": "r", "features": {"x": f}})
    p = Problems("x")
    b = read_events(spec, source, list(patients), np.array([when] * len(patients), dtype="datetime64[s]"), p)
    lost = b.inputs[:, 1] > 0 if "x missing" in spec.names else np.zeros(len(patients), bool)
    return np.where(b.present & ~lost, b.inputs[:, 0], np.nan).tolist(), p, list(b.warnings)

def value(source, feature, want, silent_is_bad=True, **k):
    """OK when the value is right, or (where that is an answer) when pmfed says that something is wrong."""
    got, p, w = ehr(source, feature, **k)
    return near(got, want) and not p._found or (silent_is_bad and said(p, w)), (got, text(p), w)

def strictly(source, feature, want, **k):
    """OK only with the right value: the input is legal and complete."""
    got, p, w = ehr(source, feature, **k)
    return near(got, want) and not p._found, (got, text(p), w)

def ndjson(path, *resources): Path(path).write_text("\n".join(map(json.dumps, resources)) + "\n"); return Path(path)
def pat(id="1", **k): return {"resourceType": "Patient", "id": id, "gender": "female", "birthDate": "1957-03-04", **k}
def obs(id, value=None, unit="mg/dL", code="2345-7", date="2020-06-01T10:00:00Z", patient="1", **k):
    r = {"resourceType": "Observation", "id": id, "status": "final", "code": {"coding": [{"system": LOINC, "code": code}]}, "subject": {"reference": f"Patient/{patient}"}, "effectiveDateTime": date}
    if value is not None: r["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return {**r, **k}
def cond(id, **k): return {"resourceType": "Condition", "id": id, "code": {"coding": [{"system": SNOMED, "code": "44054006"}]}, "subject": {"reference": "Patient/1"}, "onsetDateTime": "2019-01-01", **k}
def drug(id="m", **k): return {"resourceType": "MedicationRequest", "id": id, "status": "active", "intent": "order", "subject": {"reference": "Patient/1"}, "authoredOn": "2020-01-01", **k}
STATIN = {"coding": [{"system": RXNORM, "code": "36567"}]}
MED = {"resourceType": "Medication", "id": "d1", "code": STATIN}
GLUCOSE = {"codes": ["LOINC:2345-7"], "value": "last", "unit": "mg/dL", "molar_mass": 180.156}
DIABETES = {"codes": ["SNOMED:44054006"], "value": "ever"}
TAKES = {"codes": ["RxNorm:36567"], "value": "ever"}
COUNT = {"codes": ["LOINC:2345-7"], "value": "count"}
EVENTS = "patient_id,when,code,value,unit\n"
def csv(path, *rows): Path(path).write_text(EVENTS + "".join(r + "\n" for r in rows)); return Path(path)

OMOP = {
    "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,person_source_value,gender_source_value",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,condition_start_datetime,condition_source_value,condition_source_concept_id",
    "drug_exposure": "drug_exposure_id,person_id,drug_concept_id,drug_exposure_start_date,drug_exposure_start_datetime,drug_source_value,drug_source_concept_id",
    "measurement": "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,operator_concept_id,value_as_number,value_as_concept_id,unit_concept_id,measurement_source_value,measurement_source_concept_id,unit_source_value",
    "observation": "observation_id,person_id,observation_concept_id,observation_date,observation_datetime,value_as_number,value_as_string,value_as_concept_id,observation_source_value,observation_source_concept_id,unit_concept_id,unit_source_value",
    "procedure_occurrence": "procedure_occurrence_id,person_id,procedure_concept_id,procedure_date,procedure_datetime,procedure_source_value,procedure_source_concept_id",
    "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date",
    "death": "person_id,death_date,death_datetime,cause_concept_id",
    "concept": "concept_id,concept_name,domain_id,vocabulary_id,concept_class_id,standard_concept,concept_code,valid_start_date,valid_end_date,invalid_reason",
    "concept_relationship": "concept_id_1,concept_id_2,relationship_id,valid_start_date,valid_end_date,invalid_reason",
}
VOCABULARY = {"concept": ["3004501,Glucose,Measurement,LOINC,Lab,S,2345-7,1970-01-01,2099-12-31,", "8840,mg/dL,Unit,UCUM,Unit,S,mg/dL,1970-01-01,2099-12-31,",
    "1340204,History of event,Observation,OMOP Extension,Observation,S,OMOP5160861,1970-01-01,2099-12-31,", "45600000,Personal history of breast cancer,Observation,ICD10CM,4-char,,Z85.3,1970-01-01,2099-12-31,",
    "4112853,Malignant tumour of breast,Condition,SNOMED,Disorder,S,254837009,1970-01-01,2099-12-31,", "317009,Asthma,Condition,SNOMED,Disorder,S,195967001,1970-01-01,2099-12-31,",
    "45500001,Unstable angina with CAD,Condition,ICD10CM,5-char,,I25.110,1970-01-01,2099-12-31,", "315296,Preinfarction syndrome,Condition,SNOMED,Disorder,S,4557003,1970-01-01,2099-12-31,", "317576,Coronary arteriosclerosis,Condition,SNOMED,Disorder,S,53741008,1970-01-01,2099-12-31,"],
  "concept_relationship": ["45600000,1340204,Maps to,1970-01-01,2099-12-31,", "45600000,4112853,Maps to value,1970-01-01,2099-12-31,", "45500001,315296,Maps to,1970-01-01,2099-12-31,", "45500001,317576,Maps to,1970-01-01,2099-12-31,"]}
def omop(d, vocabulary=True, **rows):
    rows = {"person": ["1,8532,1957,3,4,1,F"], **(VOCABULARY if vocabulary else {}), **rows}
    for table, head in OMOP.items():
        if vocabulary or not table.startswith("concept"): (d / f"{table}.csv").write_text("\n".join([head, *rows.get(table, [])]) + "\n")
    return d
def measured(value=100, person=1, date="2020-06-01", moment="2020-06-01 10:00:00", operator="", id=1): return f"{id},{person},3004501,{date},{moment},{operator},{value},,8840,2345-7,0,mg/dL"

# --- genomes -------------------------------------------------------------------------------------------------------
HEAD = "##fileformat={v}\n##contig=<ID={c},length={n}>\n" + "".join(f'##{k}=<ID={i},Number={m},Type={t},Description="x">\n' for k, i, m, t in (("INFO", "END", 1, "Integer"), ("INFO", "SVLEN", "A", "Integer"), ("FORMAT", "GT", 1, "String"), ("FORMAT", "FT", 1, "String"), ("FORMAT", "DP", 1, "Integer"), ("FORMAT", "CN", 1, "Integer"))) + '##ALT=<ID=DEL,Description="x">\n##ALT=<ID=DUP,Description="x">\n'
LENGTH = {"16": 90338345, "22": 50818468, "X": 156040895}
S = ("S1", "S2", "S3")
def vcf(path, *records, samples=S, v="VCFv4.2", c="16"):
    columns = "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples])
    Path(path).write_text(HEAD.format(v=v, c=c, n=LENGTH[c]) + columns + "\n" + "".join(r + "\n" for r in records)); return Path(path)
def rec(ref, alt, form, *calls, pos=31096368, c="16", info="."): return "\t".join([c, str(pos), ".", ref, alt, ".", "PASS", info, form, *calls])
def panel(path, reference, effect, want, at="16:31096368", samples=S, sexes=None, legal=True):
    from readings import read_panel
    from pmfed.modality.genomics import Panel
    spec = Panel.model_validate({"kind": "panel", "source": "c", "build": "GRCh38", **({"samples": "t", "sex": "sex"} if sexes else {}), "variants": {"v": {"at": at, "reference": reference, "effect": effect, "frequency": 0.5, "indicator": True}}})
    p, table = Problems("x"), None
    if sexes:
        table = Path(path).parent / "t.csv"; table.write_text("sample_id,patient_id,sex\n" + "".join(f"{s},{s},{x}\n" for s, x in zip(samples, sexes)))
    b = read_panel(spec, Path(path), list(samples), None, p, samples=table)
    got = [float("nan") if m else round(float(x) * 2**-0.5 + 1, 3) for x, m in b.inputs]
    wrong = [g for g, w in zip(got, want) if not (g == w or np.isnan(g))]  # a missing call is never a wrong one
    return (near(got, want) and not p._found) if legal else (not wrong or bool(p._found)), (got, text(p), b.warnings)
def copies(path, want, samples=("S1",)):
    from readings import read_copy_number
    from pmfed.modality.genomics import CopyNumber
    spec = CopyNumber.model_validate({"kind": "copy_number", "source": "c", "build": "GRCh38", "regions": {"g": {"at": "22:42126499-42130881", "indicator": True}}})
    p = Problems("x"); b = read_copy_number(spec, Path(path), list(samples), None, p)
    got = [float("nan") if m else float(x) + 2 for x, m in b.inputs]
    return near(got, want) and not p._found or (bool(p._found) or any("breakend" in w or "sequence" in w for w in b.warnings)), (got, text(p), b.warnings)
def sv(ref, alt, form, *calls, pos=42126000, info="END=42132000"): return rec(ref, alt, form, *calls, pos=pos, c="22", info=info)

# --- pictures ------------------------------------------------------------------------------------------------------
def dcm(pixels, path=None, modality="CT", series="1.2.3", instance=None, z=None, number=1, bits=16, stored=None, high=None, signed=0, slope=1, inter=0, patient="1", spacing=(1, 1), syntax="1.2.840.10008.1.2.1", sop="1.2.840.10008.5.1.4.1.1.2", **more):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid
    d, a = Dataset(), np.asarray(pixels); d.file_meta = FileMetaDataset(); d.file_meta.TransferSyntaxUID = syntax
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = sop; d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = instance or generate_uid()
    d.StudyInstanceUID, d.SeriesInstanceUID, d.PatientID, d.Modality, d.InstanceNumber = "1.2", series, patient, modality, number
    d.AcquisitionDate = d.SeriesDate = d.ContentDate = d.StudyDate = "20200601"; d.AcquisitionTime = "120000"
    d.Rows, d.Columns = a.shape; d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.PixelRepresentation = bits, stored or bits, signed; d.HighBit = (stored or bits) - 1 if high is None else high
    if slope is not None: d.RescaleSlope, d.RescaleIntercept = slope, inter
    if z is not None: d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    if spacing is not None: d.PixelSpacing = list(spacing)
    for name, what in more.items(): setattr(d, name, what)
    d.PixelData = a.astype(np.int16 if signed else np.uint16).tobytes(); d["PixelData"].VR = "OW"
    if path: d.save_as(path, enforce_file_format=True)
    return d
def frame_group(d, z, slope=1):
    from pydicom.dataset import Dataset
    def item(**k):
        i = Dataset()
        for n, x in k.items(): setattr(i, n, x)
        return i
    d.PerFrameFunctionalGroupsSequence = [item(PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")], PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])], PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])], PixelMeasuresSequence=[item(PixelSpacing=[1, 1])])]
    return d
def scan(folder, size, window, check, want, patients=("1",), legal=False, **k):
    from readings import read_dicom
    from pmfed.modality.scans import Dicom
    spec = Dicom.model_validate({"kind": "dicom", "folder": "p", "size": list(size), "window": window, "mean": 0.0, "scale": 1.0, "series": {"modality": ["*"]}, **k})
    p = Problems("x"); b = read_dicom(spec, Path(folder), list(patients), None, p)
    got = np.round(np.asarray(check(b.inputs), dtype=float), 3)
    right = bool(np.allclose(got, want, atol=3e-3)) and bool(b.present.all()) and not p._found
    return right if legal else right or said(p, b.warnings), (got.tolist(), text(p), list(b.warnings))
FLAT = np.zeros((4, 4))

# --- waveforms -----------------------------------------------------------------------------------------------------
def signal(folder, file, channel, check, want, rate=250, seconds=10, legal=False, tol=0.05):
    from readings import read_signals
    from pmfed.modality import Signals
    spec = Signals.model_validate({"kind": "signal", "table": "t", "folder": "f", "rate": rate, "seconds": seconds, "channels": {"ecg": channel}})
    p = Problems("x"); b = read_signals(spec, [file], Path(folder), Path(folder) / "t.csv", p)
    got = check(b.inputs[0][:, 0]); right = abs(got - want) <= tol and not p._found
    return right if legal else right or said(p, b.warnings), (round(got, 3), text(p), list(b.warnings))
def amplitude(x): return float(np.sqrt(2) * x[100:-100].std())
def peak(x): return float(np.fft.rfftfreq(len(x), 1 / 250)[np.argmax(np.abs(np.fft.rfft(x - x.mean())))])
T = np.arange(2500) / 250
SINE = np.sin(2 * np.pi * 30 * T)
def wfdb_write(d, **k):
    import wfdb
    here = os.getcwd(); os.chdir(d)
    try: wfdb.wrsamp("rec", **k)
    finally: os.chdir(here)
