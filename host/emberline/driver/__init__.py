"""Transports, the protocol over them, and the device that people call."""
