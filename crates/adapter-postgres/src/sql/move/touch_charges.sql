INSERT INTO touched_charge SELECT * FROM unnest($1::smallint[], $2::uuid[]) ON CONFLICT DO NOTHING;
