"""Lattice ECP5 primitives, one file each."""
