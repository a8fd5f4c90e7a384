"""A user's package with a task of their own, for ``--plugin my_tasks``."""
