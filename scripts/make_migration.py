"""Write the step from the last migration's rows to those of mien.service.database.

    python scripts/make_migration.py "What changes."

Read what it writes: Alembic sees new tables and columns, and takes what was renamed for new.
"""

import sys
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from mien.service.database import Database, alembic_config


def main() -> None:
    database = Database("sqlite://")
    database.upgrade()
    config = alembic_config()
    scripts = ScriptDirectory.from_config(config)
    number = len(list(scripts.walk_revisions())) + 1
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        made = command.revision(config, sys.argv[1], autogenerate=True, rev_id=f"v{number:04d}")
    print(Path(made.path))


if __name__ == "__main__":
    main()
