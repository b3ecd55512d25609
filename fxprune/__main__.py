"""Run the command line: `python -m fxprune`."""

from fxprune.cli import main

main()
