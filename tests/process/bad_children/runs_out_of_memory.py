"""The fake trainer on a GPU that holds two rows: with more, memory runs out after its second checkpoint.

runs_out_of_memory.py FITS --per_device_train_batch_size N --gradient_accumulation_steps N …     as fake_trainer.py
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import fake_trainer

LAST_STEP = 4
# torch 2.13's words
SAID = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/env/lib/python3.11/site-packages/transformers/trainer.py", line 2073, in training_step
[rank0]:     self.accelerator.backward(loss, **kwargs)
[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 \
GiB of which 1.21 GiB is free. Including non-PyTorch memory, this process has 22.42 GiB memory in use.
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("fits", type=int)
    parser.add_argument("--per_device_train_batch_size", type=int, required=True)
    parser.add_argument("--gradient_accumulation_steps", type=int, required=True)
    sizes, rest = parser.parse_known_args()
    fake_trainer.say(f"batch {sizes.per_device_train_batch_size} x {sizes.gradient_accumulation_steps}")
    if sizes.per_device_train_batch_size > sizes.fits:
        go_on = fake_trainer.State.go_on

        def run_out(self):
            if self.step == LAST_STEP:
                sys.stderr.write(SAID)
                sys.exit(1)
            return go_on(self)

        fake_trainer.State.go_on = run_out
    sys.argv = [sys.argv[0], *rest]
    sys.exit(fake_trainer.main())
