"""What answers: the site agent, and what it computes with its patients' records."""
