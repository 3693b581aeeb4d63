"""pmfed: federated, privacy-preserving learning for precision medicine."""

__version__ = "0.1.0"
