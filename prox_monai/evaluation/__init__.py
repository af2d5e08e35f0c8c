"""What subnets cost and what they are worth."""
