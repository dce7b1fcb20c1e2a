"""Pictures of what goes in, of how a training goes, and of what attention looks at."""
