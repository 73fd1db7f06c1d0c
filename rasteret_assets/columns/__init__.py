"""Functions of one column: Arrow arrays in, Arrow arrays out. Every stage uses them."""
