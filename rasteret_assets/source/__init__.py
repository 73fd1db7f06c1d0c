"""A record table: its files, its rows, and what changed since the last look."""
