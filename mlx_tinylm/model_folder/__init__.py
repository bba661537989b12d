"""One folder is one model: what it is, how its files are laid out, read strictly and written atomically."""
