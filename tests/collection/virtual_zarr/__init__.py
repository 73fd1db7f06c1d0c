"""What is written to Icechunk: these tests need Icechunk 2, and run under Python 3.12 or later."""
