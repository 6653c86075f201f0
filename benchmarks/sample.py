"""Our DDIM step beside diffusers' with PyTorch, on the same weights.

python -m benchmarks.sample --peer_python PATH [--models 2,3,4] [--width 0.25] [--batch 32]

benchmarks/unet.py has the flags.
"""

from absl import app, flags

from benchmarks import unet

if __name__ == "__main__":
    flags.FLAGS.set_default("what", "sample")
    app.run(unet.main)
