"""The specification: what a user asks for, from Python, TOML, YAML, JSON or a preset.

It is validated here, in the user's own words, and becomes strategies of the five axes.
The passes, the loop and the command line read it. The presets are texts, and need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
