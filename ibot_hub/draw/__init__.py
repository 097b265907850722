"""Results become pictures, one file a method: drawing answers PIL images and never writes."""
