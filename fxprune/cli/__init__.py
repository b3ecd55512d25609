"""The command line: words and files in, tables out.

Each command imports what it needs when it runs, so that help and completion start without torch.
Only `fxprune.__main__` and the installed script come here.
"""

from fxprune.cli.app import main

__all__ = ["main"]
