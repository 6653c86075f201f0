"""Train, sample, measure, save: all that a notebook needs, in one page.

Run it as `python examples/notebook.py`; on two CPU cores it takes about two minutes.
"""

import sys

import jaxdiff as jd

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000

data = jd.dataset("digits", size=16).mixture({6: 240, 9: 60})
unet = jd.build_unet("2", size=16)  # depth 2 of the paper's Table A
model = jd.Model(unet, jd.Schedule.linear(), prediction="v")
model = jd.fit(model, data, steps=steps, batch=32)

x0 = jd.sample(model, num=64, seed=0)
print("LPIPS over all pairs:", jd.lpips(x0))
for estimate in jd.memorization(x0, data.train, data.held_out):
    print(estimate.name, dict(estimate.labels), estimate)
print("curvature |M| at t = 300:", jd.curvature(model, x0[:4], t=300)["spectral_norm"])

jd.save(model, "my_model")
print("loaded again:", (jd.sample(jd.load("my_model"), num=64) == x0).all())
