"""The tools that train, one file each, behind one protocol."""
