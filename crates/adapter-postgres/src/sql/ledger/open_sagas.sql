SELECT s.state FROM saga AS s JOIN outbox_shard AS o ON o.shard = s.shard AND o.home
WHERE NOT s.ended AND s.id > $1 ORDER BY s.id LIMIT $2;
