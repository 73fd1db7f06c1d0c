"""Assets of a collection, their partitions and checks, and how a run makes them."""
