"""What a process has once: its event loop, its users of connections, its memory, its batches."""
