"""Heard: from the Soulseek network into a local spool, and from there into PostgreSQL."""
