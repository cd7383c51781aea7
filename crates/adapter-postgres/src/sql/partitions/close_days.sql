-- Notes the newest number of each shard before this week, an hour after the week began: nobody writes to its last day any more.
UPDATE outbox_history AS h
SET closed_day = w.monday,
    closed_seq = greatest(h.closed_seq, coalesce((
        SELECT max(o.seq) FROM outbox AS o WHERE o.shard = h.shard AND o.day >= h.closed_day AND o.day < w.monday
    ), 0))
FROM (SELECT date_trunc('week', (now() - interval '1 hour') AT TIME ZONE 'UTC')::date) AS w (monday)
WHERE h.closed_day < w.monday;
