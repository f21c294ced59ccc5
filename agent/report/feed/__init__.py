"""What a face in a process of its own is told of the board, and how it keeps that. It only ever reads."""
