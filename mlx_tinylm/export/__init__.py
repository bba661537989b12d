"""A model for other tools: a clean, verified copy of its folder, a card, fewer bits, one GGUF file."""
