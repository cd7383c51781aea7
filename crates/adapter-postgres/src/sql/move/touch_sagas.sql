INSERT INTO touched_saga SELECT * FROM unnest($1::smallint[], $2::uuid[]) ON CONFLICT DO NOTHING;
