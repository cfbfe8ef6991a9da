"""An island that runs in the backend's own Python: standard library and lazy machine-learning imports only."""
