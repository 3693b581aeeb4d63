"""What a hospital runs: a courier, a resident agent, and the ledger that remembers."""
