"""One piece of work on a job: its faces followed, a part painted, a picture swapped, all joined.

What is made lies in a scratch folder, which is a cache and may vanish, and counts when it is in the
store. While a piece is worked on a thread renews its lease, and learns that the job was canceled.
"""

from mien.service.executing.executor import Executor
from mien.service.executing.piece import Models

__all__ = ["Executor", "Models"]
