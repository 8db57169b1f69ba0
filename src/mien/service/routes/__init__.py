"""What can be asked of the service: one module for each kind of thing, with its ``router``."""
