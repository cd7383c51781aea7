INSERT INTO touched_pool SELECT * FROM unnest($1::boolean[], $2::uuid[], $3::text[]) ON CONFLICT DO NOTHING;
