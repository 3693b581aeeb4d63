"""Why a model answers what it answers: contributions of one patient's inputs, and what it learned in all."""
