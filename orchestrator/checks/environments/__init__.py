"""Environments of backends: the tested set of versions, what each backend needs, how an environment is built."""
