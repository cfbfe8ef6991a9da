"""Runs a plan's stages as native processes: launch, follow, stop, adopt, resume."""
