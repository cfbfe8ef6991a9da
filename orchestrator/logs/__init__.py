"""Log lines become events, log tails become diagnoses."""
