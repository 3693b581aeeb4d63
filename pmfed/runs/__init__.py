"""The folder of a finished run: its model, read strictly and by anybody; predictions with it; copies for other programs."""
