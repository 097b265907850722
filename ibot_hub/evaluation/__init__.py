"""Features or a model become a frozen report, one file a protocol."""
