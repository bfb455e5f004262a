"""A notebook-first workbench for sparse autoencoders of language models: geometry, matching, dark matter, circuits.

The public names are those of `workbench.lazy.NAMES`; none of them, and no heavy library, is imported before it is used.
"""

from workbench.lazy import NAMES, attach

__version__ = "0.1.0"
__all__ = sorted(NAMES)
__getattr__, __dir__ = attach(__name__)
