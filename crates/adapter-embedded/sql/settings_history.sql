SELECT version, author, at, change FROM settings_version ORDER BY version DESC LIMIT ?1
