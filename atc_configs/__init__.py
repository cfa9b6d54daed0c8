"""One TOML a SoC: hardware numbers, default ATC flags, support, guards."""
