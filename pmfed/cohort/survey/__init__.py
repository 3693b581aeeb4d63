"""A survey of a folder: which sources are in it, and what a study could ask of them. It names columns and codes only.

- `names`: which names may be shown.
- `columns`: what the columns of a table hold.
- `codes`: which codes health records have.
- `files`: genomes, scans, pictures and waveforms.
- `folder`: all that a folder holds.
- `draft`: the lines of site.toml and of a study that follow from it.
"""

from pmfed.cohort.survey.draft import data_lines, study_lines, summary
from pmfed.cohort.survey.folder import Survey, survey

__all__ = ["Survey", "data_lines", "study_lines", "summary", "survey"]
