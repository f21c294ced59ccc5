"""Types of the policy's values: each reads what people write, and refuses the rest with a hint."""
