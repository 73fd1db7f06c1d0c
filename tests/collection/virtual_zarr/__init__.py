"""Tests of the repositories that ``to_icechunk`` writes. They need Icechunk 2, and so Python 3.12 or later."""
