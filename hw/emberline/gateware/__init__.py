"""What becomes hardware: Amaranth components with contracts."""
