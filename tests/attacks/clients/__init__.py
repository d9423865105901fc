"""Scripts that run in processes of their own, without what tests import: they start in half a second."""
