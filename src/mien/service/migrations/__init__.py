"""Steps from one shape of the rows to the next, by Alembic; run when the service starts."""
