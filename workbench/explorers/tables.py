"""Tables of panels, made without pandas being imported before the first one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def frame(data: Any, **options: Any) -> pd.DataFrame:
    """A DataFrame of columns (a mapping) or of rows (a list of mappings, an array); options as pandas has them."""
    import pandas as pd

    return pd.DataFrame(data, **options)
