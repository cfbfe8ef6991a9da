ulimit -v 4000000
python - <<'END'
rows = [b"text" * 100_000_000 + bytes([n]) for n in range(100)]
END
