-- A transaction that began earlier and ends later was not seen yet; none lasts a minute.
SELECT (now() - interval '1 minute')::text;
