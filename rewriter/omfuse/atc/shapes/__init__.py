"""Shapes by intent: what is said about inputs and dims becomes ATC's shape flags."""
