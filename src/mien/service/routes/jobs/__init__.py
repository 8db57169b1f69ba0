"""Videos and pictures, swapped in the background."""

from __future__ import annotations

from typing import Any, Final

from mien.service.routes.jobs import changing, following, making, results, showing

MODULES: Final[tuple[Any, ...]] = (making, showing, changing, results, following)
"""With the routes of jobs."""
