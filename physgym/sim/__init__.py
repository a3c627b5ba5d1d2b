"""Simulation of twins: one Solver contract, one folder per kind of physics."""
