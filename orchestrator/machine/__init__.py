"""The machine as Orch meets it: files, processes, packages, hardware, the hub, secrets, the terminal."""
