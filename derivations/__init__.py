"""One file a result: derived with sympy, checked against gradflow's own code, printed as a short proof."""
