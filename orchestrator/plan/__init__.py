"""Recipe and machine become a plan: stages, what is measured, where the run lies. Nothing runs here."""
