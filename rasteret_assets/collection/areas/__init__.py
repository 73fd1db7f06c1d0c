"""Areas of interest and pixel grids: everything about the sphere, longitude 180 and the poles."""
