"""Making, checking, mounting, freezing and unmounting. Not whether that is wanted."""
