"""Drive ATC: options and their rules, SoC configurations, the ATC form, the run, its messages."""
