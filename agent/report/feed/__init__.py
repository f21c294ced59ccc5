"""How a face in a process of its own is started, what it is told of the board, and how it keeps that."""
