"""What is changed on purpose: some parameters trained at another rate, or not at all."""
