"""Readers and writers of network file formats."""
