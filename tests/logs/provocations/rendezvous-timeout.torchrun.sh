python -m torch.distributed.run --nnodes 2 --node_rank 1 --master_addr 127.0.0.1 --master_port 29673 --rdzv_conf timeout=3,read_timeout=3 train.py
