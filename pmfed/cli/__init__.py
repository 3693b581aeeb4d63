"""The command line: a file per group of commands. Nothing else in pmfed looks up at server, client and simulations.

Everything heavy is imported inside the commands: `pmfed --help` must answer at once.
"""

from pmfed.cli.main import app, main

__all__ = ["app", "main"]
