"""The board's configuration flash as the place where weights come from."""
