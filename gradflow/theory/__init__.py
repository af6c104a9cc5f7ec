"""What should happen: predictions, conservation laws and claims."""
