"""A page that shows what is inside a model; nothing is here yet."""
