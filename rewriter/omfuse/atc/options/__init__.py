"""ATC's command line: flags, their typed fields, and the rules checked before ATC starts."""
