"""The simulated toolchain: a stand-in for ATC, and a stand-in for the device that runs its files.

Everything it makes is marked as simulated and runs on no chip.
"""
