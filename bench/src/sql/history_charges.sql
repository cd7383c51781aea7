-- Settled consumes of the last 30 days. Row number g belongs to shard g % 64 and to one of its payers; ids are UUIDs of version 7
-- with the shard in them, as domain::ids makes them.
INSERT INTO charge (shard, id, payer_is_org, payer_id, user_id, provider, model, metadata, status, held, settled, refunded, debt,
                    from_allowance, from_purchased, late, created_at, settled_at, seq)
SELECT h.shard,
       (lpad(to_hex((extract(epoch FROM h.made) * 1000)::bigint), 12, '0') || '70' || lpad(to_hex(h.shard::integer), 2, '0')
           || '8' || substr(h.tail, 18, 15))::uuid,
       false, h.payer, h.payer, 'openai', 'gpt-4o', '{"note":"' || h.tail || '"}', 'SETTLED', 0, 1000, 0, 0, 0, 1000, false,
       h.made, h.made, h.seq
FROM (
    SELECT (g % 64)::smallint AS shard, g / 64 + 1 AS seq, md5(g::text) AS tail, p.payers[1 + (g / 64) % cardinality(p.payers)] AS payer,
           now() - interval '30 days' * (1 - g::float8 / $2::bigint) AS made
    FROM generate_series($1::bigint, $1::bigint + $4::bigint - 1) AS g
    JOIN (SELECT shard, array_agg(payer) AS payers FROM unnest($5::smallint[], $3::uuid[]) AS u (shard, payer) GROUP BY shard) AS p
      ON p.shard = g % 64
) AS h;
