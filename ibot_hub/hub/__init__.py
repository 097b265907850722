"""Names become files, checked and kept; models become repositories."""
