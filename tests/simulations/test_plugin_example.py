"""The example package, installed as a hospital would, through whole runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from plugin import EXAMPLE, install_example, installed, write_sites
from pmfed_simulations.simulate import Options, prepare, simulate

from pmfed.errors import PmfedError


@pytest.mark.slow
def test_the_example_trains_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pmfed_example"]:
        monkeypatch.delitem(sys.modules, name)  # as another test of this process has it, from elsewhere
    monkeypatch.syspath_prepend(str(install_example(tmp_path)))
    line = installed("encoders", "residual").line
    open_, closed = write_sites(tmp_path / "open", f'plugins = ["{line}"]\n'), write_sites(tmp_path / "closed")

    def run(study: str, sites: Path) -> Path:
        out = tmp_path / f"{study}-{sites.name}"
        asked = Options(study=str(EXAMPLE / f"{study}.toml"), sites=str(sites), out=str(out), workers=1)
        simulate(prepare(asked))
        return out

    trained = json.loads((run("study", open_) / "result.json").read_text())
    assert trained["metrics"]["test"]["auroc"] > 0.6
    counted = run("means", open_)
    told = json.loads((counted / "result.json").read_text())
    assert told["patients"] == pytest.approx(300, abs=30)
    assert told["means"]["labs.creatinine"] < -0.4
    assert "labs.creatinine" in (counted / "report.html").read_text()
    with pytest.raises(PmfedError, match="its policy does not admit the study"):
        run("means", closed)
