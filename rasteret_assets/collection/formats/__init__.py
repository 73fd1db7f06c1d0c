"""The forms in which pixels are given out, one module each."""
