"""Tracking: which face is whose from frame to frame, with detection only now and then.

The mesh carries each face from one frame to the next (its last fit is the next crop); detection
runs every few frames, at cuts, and when a mesh is lost, to find who came in. Where faces meet, who
is whose is decided by how each moved and, where it is known, by what each looks like.
"""

from mien.track.assign import assign as assign
from mien.track.flow import BLUR as BLUR
from mien.track.flow import CELL as CELL
from mien.track.flow import SIDE as SIDE
from mien.track.flow import Flow as Flow
from mien.track.flow import Seen as Seen
from mien.track.kalman import Path as Path
from mien.track.options import LIVE as LIVE
from mien.track.options import TrackOptions as TrackOptions
from mien.track.people import People as People
from mien.track.steady import PULL as PULL
from mien.track.steady import OneEuro as OneEuro
from mien.track.steady import Steady as Steady
from mien.track.tracker import Look as Look
from mien.track.tracker import Track as Track
from mien.track.tracker import Tracker as Tracker
