"""Which permissions a policy needs, as IAM writes them, and which are missing."""
