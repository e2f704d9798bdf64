"""The meaning of a network: graph, integer arithmetic and bit-exact execution in numpy."""
