"""Images become features on disk, and are read back."""
