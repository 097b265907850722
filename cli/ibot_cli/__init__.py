"""The `ibot` command: words in, words out; all that is computed is computed in the library."""
