"""What every source of a hospital owes the rest of the program, whatever its format: docs/formats.md, in code.

- `identity`: a record counts once, in its newest version.
- `times`: a date means every second it may mean; what may have come after the index date did.
- `numbers`: a number is read one way or refused; a limit stays a limit.
- `people`: an id leads to one person's data or to nobody's.
- `uses`: what is passed over is counted, with its reason.
- `written`: what a path alone cannot tell, a site declares.
"""
