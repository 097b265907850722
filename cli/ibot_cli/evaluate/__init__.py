"""`ibot eval`: one command a protocol, each prints its report."""
