INSERT INTO settings_version (version, author, at, change, document) VALUES (?1, ?2, ?3, ?4, ?5)
