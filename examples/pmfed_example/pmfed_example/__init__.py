"""Plug-ins for pmfed: the encoder ``residual`` and the method ``means``."""
