"""Areas of interest and pixel grids: everything that knows the sphere, 180 degrees and the poles."""
