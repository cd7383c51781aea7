-- From the commit on the shards are written here.
WITH arrived AS (
    SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::integer[], $4::boolean[], $5::date[], $6::bigint[], $7::bigint[])
        AS n (shard, last_seq, epoch, budgets, closed_day, closed_seq, archived_through)
), history AS (
    UPDATE outbox_history AS h SET closed_day = a.closed_day, closed_seq = a.closed_seq, archived_through = a.archived_through
    FROM arrived AS a WHERE h.shard = a.shard
)
UPDATE outbox_shard AS s SET home = true, last_seq = a.last_seq, epoch = a.epoch, budgets = a.budgets FROM arrived AS a WHERE s.shard = a.shard;
