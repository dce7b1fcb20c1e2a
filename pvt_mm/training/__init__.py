"""Training and testing: hooks, loops, wrappers, and the functions that start them."""
