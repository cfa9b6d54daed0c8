"""Lift the surroundings of each softmax into a normal form and prove that it is attention."""
