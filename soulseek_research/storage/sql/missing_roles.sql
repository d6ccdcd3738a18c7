SELECT wanted.name
FROM (VALUES ('soulseek_research_collector'), ('soulseek_research_archivist'), ('soulseek_research_analyst')) AS wanted (name)
WHERE to_regrole(wanted.name) IS NULL
ORDER BY 1
