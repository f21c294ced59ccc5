"""How answers look: as JSON for programs, and in words and colours for people. Asks nothing."""
