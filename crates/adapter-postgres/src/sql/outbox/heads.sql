SELECT s.shard, s.last_seq, l.published_through, h.archived_through
FROM outbox_shard AS s JOIN outbox_lease AS l USING (shard) JOIN outbox_history AS h USING (shard)
ORDER BY s.shard;
