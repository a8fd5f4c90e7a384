"""A user's package with mixers that go wrong when they are trained, for ``--plugin my_faults``."""
