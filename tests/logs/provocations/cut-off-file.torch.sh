python - <<'END'
import pathlib, torch

torch.save({"weight": torch.ones(100_000)}, "optimizer.pt")
file = pathlib.Path("optimizer.pt")
file.write_bytes(file.read_bytes()[:9000])
torch.load("optimizer.pt")
END
