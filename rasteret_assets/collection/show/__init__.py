"""What people see of a collection: its card in notebooks and its map."""
