"""The compact machine: the same programs on a few thousand LUTs and one single-port memory."""
