"""PhysGym: twins of soft objects from robot recordings, and robots that plan on them."""

__version__ = "0.1.0"
