"""Pre-training: a recipe becomes weights."""
