"""Hospital formats to patients."""
