"""Gowin primitives, one file each."""
