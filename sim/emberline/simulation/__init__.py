"""Simulation: Amaranth components under Verilator and cocotb, and helpers for Amaranth's own simulator.

``SimulatedBoard`` (``board``) is the RTL behind a driver's transport. ``run_bench`` (``bench``) runs a cocotb bench on
a component for a pytest test; inside the simulator the bench uses ``Bench`` (``harness``). ``streams`` has sources,
sinks and a protocol monitor for Amaranth's simulator.
"""
