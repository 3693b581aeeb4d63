"""What a site can be asked: one bounded sum over patients per query, known before anybody trains."""
