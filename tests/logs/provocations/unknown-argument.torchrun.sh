python -m torch.distributed.run --standalone --nprocs 2 train.py
