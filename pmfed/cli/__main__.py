"""`python -m pmfed.cli`: the command `pmfed`, of the very interpreter that runs."""

from pmfed.cli import main

main()
