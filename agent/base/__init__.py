"""What any floor may use that is no value: logs, paths, files read aside, where stray errors end."""
