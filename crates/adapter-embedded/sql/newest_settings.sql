SELECT document FROM settings_version ORDER BY version DESC LIMIT 1
