-- The roles belong to the whole server, so they may be there already (or be made at this moment by the migration of
-- another database), and a managed server may not let us make them: `migrate` says so, and the owner does everything.
DO $$
DECLARE
    roles text[] := '{soulseek_research_collector, soulseek_research_archivist, soulseek_research_analyst}';
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY roles LOOP
        CONTINUE WHEN to_regrole(wanted) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            IF NOT current_setting('is_superuser')::boolean THEN
                -- So that the owner's own processes can step down to them.
                EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
        END;
    END LOOP;
END $$;
