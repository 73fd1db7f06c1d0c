"""The four stages over a workspace: what is stale, in which order it is built, how it is committed."""
