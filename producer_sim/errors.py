"""What stops a simulation, said in a sentence that ends with what to do about it."""


class SimulationError(Exception):
    """The simulation cannot start or go on; the message is for the person who started it."""
