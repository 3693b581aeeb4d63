"""How messages reach the agent: Flower's courier, the socket between the two, and the processes that keep them up."""
