"""When and what: which volumes are here, and when a pass is made over each. Touches no device itself."""
