python - <<'END'
from torch.utils.data import DataLoader

DataLoader([], shuffle=True)
END
