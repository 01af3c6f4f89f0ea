"""What our offline pages share: their looks and their charts."""
