"""What the command-line tools call; each tool has one module with ``main`` and a function."""
