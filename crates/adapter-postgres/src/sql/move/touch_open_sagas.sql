-- Claims have no events.
INSERT INTO touched_saga SELECT s.shard, s.id FROM saga AS s JOIN moving AS m ON m.shard = s.shard WHERE NOT s.ended ON CONFLICT DO NOTHING;
