"""One base over several processes."""
