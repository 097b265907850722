"""Pre-training: a recipe becomes weights; nothing is here yet."""
