"""A page that shows what is inside a model."""
