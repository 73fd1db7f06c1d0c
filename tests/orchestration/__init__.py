"""The graph on real Dagster instances, against real files and a real HTTP server."""
