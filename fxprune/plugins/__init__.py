"""Plug-ins: what other distributions, and files that the user names, add to fxprune by name.

Entry points are read when a name is looked up, and loaded when that one is used.
A file is run once. The tables of strategies, passes, devices and presets look here, and so do the
rules and the command line.
"""

from fxprune.plugins.entry_points import GROUPS, advertised, load_all, only
from fxprune.plugins.entry_points import load as load_entry
from fxprune.plugins.files import run_file
from fxprune.plugins.table import Table

__all__ = ["GROUPS", "Table", "advertised", "load_all", "load_entry", "only", "run_file"]
