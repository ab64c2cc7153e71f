"""Python runs this at its start where this folder is on PYTHONPATH; see pretended_cuda.py."""

from importlib import import_module

import guard

guard.load()
import_module("pretended_cuda").install()
