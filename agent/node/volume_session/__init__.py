"""One pass over one volume: pinned, inspected, and the steps done on it. Decides no step."""
