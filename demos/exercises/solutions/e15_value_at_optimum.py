"""With m = (p + q)/2, the best D is p / (2m), and 1 - D = q / (2m).
V = sum p log(p/m) + q log(q/m) - (p + q) log 2
  = KL(p || m) + KL(q || m) - 2 log 2 = 2 JSD - log 4.
"""
import numpy as np


def value_at_optimum(p, q):
    m = (p + q) / 2
    jsd = 0
    for a in (p, q):
        used = a > 0
        jsd += (a[used] * np.log(a[used] / m[used])).sum() / 2
    return 2 * jsd - np.log(4)
