"""The small failing inputs found in trials, where they lie beside this tree, with the readers as they are called now."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CASES = ROOT.parent / "shared" / "cases" / "formats"


@pytest.mark.slow
@pytest.mark.skipif(not CASES.is_dir(), reason="the cases do not lie beside this tree")
@pytest.mark.parametrize("script", ["cases.py", "controls.py"])
def test_none_of_them_fails(script: str, tmp_path: Path) -> None:
    shutil.copy(CASES / script, tmp_path)
    shutil.copy(ROOT / "tests" / "cases" / "formats" / "lib.py", tmp_path)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if not line.startswith("OK")]
    assert (done.returncode, told) == (0, []), done.stderr
    assert done.stdout.count("OK") >= 12
