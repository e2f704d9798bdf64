"""The ``emberline`` command: one file per command, errors as one line, heavy imports inside the commands."""
