"""Nearest images and patches, through an index on disk."""
