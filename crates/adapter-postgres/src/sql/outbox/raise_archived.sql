UPDATE outbox_history AS h SET archived_through = a.through
FROM unnest($1::smallint[], $2::bigint[]) AS a (shard, through)
WHERE h.shard = a.shard AND h.archived_through < a.through;
