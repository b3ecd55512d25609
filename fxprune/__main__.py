"""Run the command line: `python -m fxprune`."""

from fxprune.cli.app import main

main()
