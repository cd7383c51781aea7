SELECT coalesce(max(version), 0) FROM settings_version
