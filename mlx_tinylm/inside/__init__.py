"""What a model computes on the way, measured and shown: in the terminal, and as a page."""
