"""Where what was heard is kept: PostgreSQL, by its URL or embedded."""
