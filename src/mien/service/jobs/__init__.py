"""What is done with the rows of jobs: create, claim, renew, commit, end, expire.

A job has three stages. ``follow``: one worker finds and follows the faces of the whole video, and
says where it is cut. ``paint``: each part is painted by whoever claims it, several at one time.
``join``: one worker puts the parts together. Of pictures each is a part, and ``follow`` fetches
them. Who has a job or a part holds a lease in its row, under a name of this claim alone, and
renews it; when the lease runs out another goes on. What is made counts when its file is in the
store and a transaction after that says so, which it does only while the lease is still held: so
nothing is done twice, whoever was slow, killed or cut off.

Every file's row is there before the file, and expires unless it is committed, so that nothing
stays in the store of which no row speaks.
"""

from mien.service.jobs.claims import ATTEMPTS, DEATHS
from mien.service.jobs.jobs import Jobs
from mien.service.jobs.rows import ALIVE, Lost, Task

__all__ = ["ALIVE", "ATTEMPTS", "DEATHS", "Jobs", "Lost", "Task"]
