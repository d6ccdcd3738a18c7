-- What most people wanted since a moment, each person counted once a query, whatever the case of the letters. Queries
-- that name somebody are left out, as from anything that is published. (Flag 8: collectors/search.py.)
SELECT lower(query) AS query, count(DISTINCT username) AS people, count(*) AS searches
FROM searches
WHERE timestamp >= $1 AND flags & 8 = 0 AND query <> ''
GROUP BY lower(query)
ORDER BY people DESC, searches DESC, query
LIMIT $2
