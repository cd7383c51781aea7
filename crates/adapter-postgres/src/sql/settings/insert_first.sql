INSERT INTO settings_version (version, author, at, document) VALUES ($1, 'weir', $2, $3) ON CONFLICT (version) DO NOTHING;
