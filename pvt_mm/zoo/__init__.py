"""The published results, and the model index that is made of them."""
