"""How our models are judged: patients held out, intervals by bootstrap over patients, baselines,
calibration.

Each model's module has `main(argv)`; it writes `evaluation.json` into the model's `docs`, which the
card quotes.
"""
