"""The volume that a claim wants: made, found or taken over, and deleted when the claim says so. Pure."""
