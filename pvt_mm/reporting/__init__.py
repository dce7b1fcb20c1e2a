"""One page about a run: its curves, its metrics, and where its predictions go wrong."""
