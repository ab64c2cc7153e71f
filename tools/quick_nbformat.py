"""nbformat, imported in a seventh of its time.

jsonschema, which it imports, builds the grammars of all kinds of web addresses if the package for
them is installed, as it is with Jupyter. No part of a notebook is checked against them.
"""

import sys

GRAMMARS = "rfc3987_syntax"

loaded = GRAMMARS in sys.modules
sys.modules.setdefault(GRAMMARS, None)  # what cannot be imported, jsonschema does without
try:
    import nbformat
finally:
    if not loaded:
        del sys.modules[GRAMMARS]

__all__ = ["nbformat"]
