cat > fused.c <<'END'
extern void at_of_another_torch(void);
void *PyInit_fused(void) { at_of_another_torch(); return 0; }
END
cc -shared -fPIC -o fused.so fused.c
python -c 'import fused'
