"""Installed packages of plug-ins: the example of this repository, and little ones that a test writes."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from pmfed.plugins import Plugin, find

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "pmfed_example"


def install_example(place: Path) -> Path:
    """Install the example package as a hospital would, into a folder of its own; nothing is asked of a registry."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    copy = place / "source"
    for path in EXAMPLE.rglob("*"):  # a build writes beside its sources
        if path.suffix in (".py", ".toml"):
            target = copy / path.relative_to(EXAMPLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    subprocess.run([*pip, "--target", str(place / "site"), str(copy)], check=True, capture_output=True, text=True)
    return place / "site"


def write_package(place: Path, name: str, code: str, points: dict[str, dict[str, str]], version: str = "1.0") -> Path:
    """Write a package of one module as an installer leaves it: code, entry points, RECORD."""
    module = name.replace("-", "_")
    said = "".join(
        f"[pmfed.{group}]\n" + "".join(f"{kind} = {module}:{what}\n" for kind, what in kinds.items())
        for group, kinds in points.items()
    )
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/entry_points.txt": said,
    }
    lines = []
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}\n")
    # What an installer adds for this machine:
    (place / info / "INSTALLER").write_text("pip\n")
    lines += [f"{info}/INSTALLER,sha256=x,4\n", f"__pycache__/{module}.cpython-311.pyc,,\n", f"{info}/RECORD,,\n"]
    (place / info / "RECORD").write_text("".join(lines))
    return place


def installed(group: str, kind: str) -> Plugin:
    """Return a plug-in that must be there."""
    plugin = find(group, kind)
    assert plugin is not None
    return plugin


def write_sites(folder: Path, policy: str = "", sites: int = 3, patients: int = 100) -> Path:
    """Write sites with invented patients whose death follows creatinine."""
    random = np.random.default_rng(0)
    for number in range(sites):
        place = folder / f"site{number}"
        place.mkdir(parents=True)
        age, creatinine = random.normal(60, 15, patients).clip(20, 100), random.gamma(2, 0.8, patients).clip(0, 9)
        died = random.random(patients) < 1 / (1 + np.exp(-2 * (creatinine - 1.6)))
        table = pd.DataFrame(
            {"patient_id": [f"p{number}-{one}" for one in range(patients)], "age": age.round(), "creatinine": creatinine.round(2),
             "died": np.where(died, "yes", "no")}
        )  # fmt: skip
        table.to_csv(place / "patients.csv", index=False)
        (place / "site.toml").write_text(
            f'[site]\nname = "site{number}"\n[data]\npatients = "patients.csv"\n'
            f"[policy]\nepsilon = 50.0\ndelta = 1e-3\nexact_metrics = true\nper_site_metrics = true\n{policy}"
        )
    return folder
