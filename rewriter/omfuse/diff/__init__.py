"""Compare two models numerically, with an error budget, and find the block that is wrong."""
