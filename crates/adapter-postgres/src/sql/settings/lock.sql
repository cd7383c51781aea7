-- One change at a time. Readers are not held up.
LOCK TABLE settings_version IN SHARE ROW EXCLUSIVE MODE;
