"""Sums that reveal nothing but themselves."""
