"""What the patterns of a head gather: found, ranked, kept, laid out."""
