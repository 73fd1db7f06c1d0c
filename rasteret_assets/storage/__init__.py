"""Bytes in and files out: byte-range backends, filesystems, the workspace. Only this package imports obstore and aiohttp."""
