python - <<'END'
import pathlib, torch

pathlib.Path("optimizer.pt").touch()
torch.load("optimizer.pt")
END
