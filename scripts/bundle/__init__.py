"""Makes what is put into S3: the agent with everything it needs, for nodes without internet."""
