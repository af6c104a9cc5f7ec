"""What learns: parameters as pytrees, one forward each. No data and no training in here."""
