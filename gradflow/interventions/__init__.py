"""What is changed on purpose: freezing."""
