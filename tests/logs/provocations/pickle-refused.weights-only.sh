python - <<'END'
import fractions, torch

torch.save({"step": fractions.Fraction(1, 2)}, "optimizer.pt")
torch.load("optimizer.pt", weights_only=True)
END
