SELECT s.shard, s.last_seq, l.published_through
FROM outbox_shard AS s JOIN outbox_lease AS l USING (shard)
ORDER BY s.shard;
