cat > train.py <<'END'
type Row = dict[str, str]
print(Row)
END
python train.py
