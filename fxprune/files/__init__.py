"""Files: archives looked into before they are loaded, and files written whole or not at all.

What a stranger's file would run is refused by name.
Whatever reads or writes a file comes here.
"""

from fxprune.files.atomic import append, atomic_write, check_writable, make_folder
from fxprune.files.locking import locked

__all__ = ["append", "atomic_write", "check_writable", "locked", "make_folder"]
