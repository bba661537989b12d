"""Training: what changes (state, average), how (batches, step, optimizer, loop), and a run in its folder (the rest)."""
