"""Training: what changes (state), how it changes (optimizer, loop), and how nothing is lost (checkpoint, run)."""
