"""Values that cross the public API."""
