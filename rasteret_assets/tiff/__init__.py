"""TIFF headers: bytes in, values out. Nothing here awaits, opens a file or knows Arrow."""
