SELECT wanted.name
FROM unnest('{soulseek_research_collector, soulseek_research_archivist, soulseek_research_analyst}'::text[])
    AS wanted (name)
WHERE to_regrole(wanted.name) IS NULL
ORDER BY 1
