"""Prints an NPZ file as JSON: for each key its dtype, shape and values."""

import json
import sys

import numpy

with numpy.load(sys.argv[1], allow_pickle=False) as arrays:
    out = {k: {"dtype": str(a.dtype), "shape": list(a.shape), "values": a.tolist()} for k, a in arrays.items()}
print(json.dumps(out))
