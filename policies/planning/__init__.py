"""Latent planning (WAV 4.3): it searches the initial noise of a walk with a value expert, before any schedule walks.

Only `policies.catalogue` names this package, where a schedule's name ends in a planner such as `+plan`.
"""
