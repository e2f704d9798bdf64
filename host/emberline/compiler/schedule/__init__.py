"""The schedule: in which order the steps' rows are computed, and which rows of each map are kept.

``groups`` interleaves the rows of consecutive steps, ``rings`` finds the rows that must be kept for that, ``packing``
the addresses, ``search`` which steps make a group and how their rows are interleaved.
"""
