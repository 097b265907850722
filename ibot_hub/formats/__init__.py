"""A model in other libraries' layouts."""
