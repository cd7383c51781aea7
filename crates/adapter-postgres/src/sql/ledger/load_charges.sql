SELECT c.id, c.payer_is_org, c.payer_id, c.user_id, c.key_id, c.provider, c.model, c.metadata, c.status, c.held, c.settled,
       c.refunded, c.debt, c.from_allowance, c.from_purchased, c.cost, c.currency, c.period_start, c.late, c.created_at, c.settled_at, c.expires_at,
       c.seq
FROM unnest($1::smallint[], $2::uuid[]) AS wanted (shard, id)
JOIN charge AS c ON c.shard = wanted.shard AND c.id = wanted.id;
