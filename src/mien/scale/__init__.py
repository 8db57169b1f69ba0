"""Many machines: parts of videos and folders of photos on a pool of Ray's actors.

Faces of a video are followed once, where the job was begun; its parts are painted wherever there
is a worker with warm models; they are joined where the job was begun. What is asked of the policy,
the log, the store of identities and the certificate stays there, too: workers get pictures,
numbers and words, and give back bytes.

Only this package imports ``ray``.
"""

from mien.scale.capacity import Costs as Costs
from mien.scale.capacity import Need as Need
from mien.scale.capacity import nodes_for as nodes_for
from mien.scale.capacity import speedup as speedup
from mien.scale.folders import swap_folder as swap_folder
from mien.scale.folders import swap_photos as swap_photos
from mien.scale.painter import Painter as Painter
from mien.scale.pool import Pool as Pool
from mien.scale.videos import paint_parts as paint_parts
