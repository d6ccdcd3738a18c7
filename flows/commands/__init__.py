"""The commands of `soulseek-research`, one module a noun. Each imports what it needs when it runs."""
