"""Boards: their top levels and the tools that build them."""
