"""AWS's API as values: each call there is, and what its answer says. Makes no call itself."""
