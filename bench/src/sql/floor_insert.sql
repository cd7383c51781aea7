-- The rows of settled consumes.
INSERT INTO floor_charge (shard, id, payer_is_org, payer_id, user_id, key_id, provider, model, metadata, status, held, settled, refunded,
                          debt, from_allowance, from_purchased, late, created_at, settled_at, seq)
SELECT n.shard, n.id, false, n.payer, n.payer, n.key, 'openai', 'gpt-4o', n.metadata, 'SETTLED', 0, n.tokens, 0, 0, 0, n.tokens, false,
       n.made, n.made, n.seq
FROM unnest($1::smallint[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::timestamptz[], $8::bigint[])
     AS n (shard, id, payer, key, metadata, tokens, made, seq);
