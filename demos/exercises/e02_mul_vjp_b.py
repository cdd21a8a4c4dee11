"""e02. Backward pass of a product with broadcasting.

Forward:  y = a * b,  where NumPy repeats a and b along missing axes and along axes of size 1.
Given g = dL/dy, derive dL/db.

    a, b    any shapes that NumPy can broadcast, for example (4, 3) with (3,), (4, 1), (1, 3) or ()
    g       the broadcast shape
    return  db, exactly the shape of b

One entry of b may be used many times.

Used in tinygen/ops.py: mul (sum_to in tinygen/engine.py undoes the broadcasting)
Paper first: 10 minutes
"""
import numpy as np


def mul_vjp_b(a, b, g):
    raise NotImplementedError("e02: return db, shape of b")
