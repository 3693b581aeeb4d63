"""Sections of a study that are long enough for a file of their own; `pmfed.study` puts them together."""
