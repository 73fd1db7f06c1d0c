"""A small collection from nothing: files, a range server, a graph, a picture."""
