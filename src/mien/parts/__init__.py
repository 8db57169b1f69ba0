"""A video swapped in parts, so that what is done stays done.

The faces of the whole video are found and followed once, and kept in a file
(:mod:`mien.tracks`). The video is cut at key frames; each part is painted and encoded by itself,
and counts when its packets are on the disk under their name. In the end the parts are joined
without encoding anything again. Whoever starts anew goes on with the first part that is missing;
parts may be painted in any order, by several processes, on several machines.
"""

from mien.parts.job import SECONDS as SECONDS
from mien.parts.job import Job as Job
from mien.parts.job import Part as Part
from mien.parts.job import begin as begin
from mien.parts.work import Progress as Progress
from mien.parts.work import by_plan as by_plan
from mien.parts.work import counted as counted
from mien.parts.work import follow as follow
from mien.parts.work import join as join
from mien.parts.work import nobody as nobody
from mien.parts.work import paint as paint
from mien.parts.work import rewritten as rewritten
from mien.parts.work import take as take
