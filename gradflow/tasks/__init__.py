"""What is learned: samplers, exact distributions, closed-form losses. No model and no training in here."""
