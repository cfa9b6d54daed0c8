"""Offline models (``.om``): reader and writer of graph-engine's file format.

The layout follows the public sources of graph-engine 9.2 and files written by CANN 8.0; encrypted
files and OM2 (ZIP) packages are recognised but not read.
"""
