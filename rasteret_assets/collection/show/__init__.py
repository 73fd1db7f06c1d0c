"""Show collections: their card in notebooks, and maps of their footprints."""
