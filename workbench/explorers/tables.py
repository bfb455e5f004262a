"""Tables of panels, made without pandas being imported before the first one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def frame(data: Any, **options: Any) -> pd.DataFrame:
    """A DataFrame of columns (a mapping) or of rows (a list of mappings, an array); options as pandas has them."""
    import pandas as pd

    try:
        return pd.DataFrame(data, **options)
    except UnicodeEncodeError:  # pandas' strings, which are arrow's, cannot hold a lone surrogate
        return pd.DataFrame(data, **options, dtype=object)
