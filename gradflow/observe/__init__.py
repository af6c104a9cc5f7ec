"""What is seen: attention, outputs, gradients by class, phases."""
