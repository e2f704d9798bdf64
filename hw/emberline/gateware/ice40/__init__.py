"""Lattice iCE40 UltraPlus primitives, one file each."""
