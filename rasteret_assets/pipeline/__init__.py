"""Build partitions by four stages over a workspace: which partitions are stale, in which order stages run."""
