"""Open a record table, read its rows, and find what changed since it was profiled last."""
