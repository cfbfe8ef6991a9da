"""What a machine has for a run and what it lacks: environments, hardware, hub, disks, limits, tools."""
