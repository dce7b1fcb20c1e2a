"""What models cost: parameters and operations, memory, time."""
